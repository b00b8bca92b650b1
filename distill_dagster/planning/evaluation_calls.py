"""The calls of evaluations: exact where what they ask about is there already, else the most that can be needed."""

from collections.abc import Iterable

import polars as pl

from distill_dagster.evaluation.planned_calls import Asking
from distill_dagster.evaluation.second_sample import second_requests, second_teacher
from distill_dagster.golden.answers import golden_requests, golden_teacher
from distill_dagster.golden.build import declared_golden_rows
from distill_dagster.plan import PartitionedPlan
from distill_dagster.planning.coming_rows import ComingRows
from distill_dagster.planning.effects import Downstream
from distill_dagster.planning.model import EvaluationCalls, TeacherCalls
from distill_dagster.planning.verdict_calls import verdict_calls
from distill_dagster.project import Distillation
from distill_dagster.releases.candidate import gated_students
from distill_dagster.teachers.asking.survey import open_requests, survey
from distill_dagster.teachers.money.estimate import store_to_read
from distill_dagster.teachers.protocol import Teacher
from distill_dagster.worker_process import no_launch


def plan_evaluation_calls(
    distillation: Distillation, upstream: PartitionedPlan, downstream: Downstream
) -> list[EvaluationCalls]:
    """What the evaluations that are, or may be, made anew would ask; the response store is only read.

    Raises:
        DistillError: judge, teacher or golden set cannot be used as declared, or nothing says what a call costs.
    """
    made = [name for name, effect in downstream.evaluations.items() if effect.is_made]
    rows = ComingRows(distillation, upstream, downstream)
    declared = distillation.spec.evaluation
    found = []
    if made and declared.teacher_resample:
        found.append(_second_answers(distillation, rows))
    if set(made).intersection(gated_students(distillation)):
        found.append(_golden_answers(distillation))
    if declared.judge is not None:
        found += [verdict_calls(distillation, name, declared.judge, rows, downstream) for name in made]
    return found


def allowed_calls(planned: Iterable[EvaluationCalls], student: str) -> dict[Asking, int]:
    """The most calls that a student's evaluation may make by a plan, by what for.

    What evaluations share is asked by the first of them, so each of them may make all of it.
    """
    theirs = [calls for calls in planned if calls.student in (None, student)]
    return {Asking(one.asking): one.calls.needed + one.calls.in_batches for one in theirs}


def _golden_answers(distillation: Distillation) -> EvaluationCalls:
    """The teacher's to the rows that the golden set's source has now; those that nobody verified are not asked."""
    golden = declared_golden_rows(distillation).filter("verified")
    teacher = golden_teacher(distillation, no_launch)
    calls, most = _counted(distillation, teacher, golden_requests(golden))
    return EvaluationCalls(
        asking=Asking.GOLDEN_ANSWERS.value,
        calls=calls,
        exact=True,
        most_microusd=None if distillation.spec.teacher.is_local else most,
        basis="the golden rows",
    )


def _second_answers(distillation: Distillation, rows: ComingRows) -> EvaluationCalls:
    """The teacher's, to test prompts that it answered before."""
    teacher = second_teacher(distillation)
    if rows.are_known:
        calls, most = _counted(distillation, teacher, second_requests(distillation, rows.asked()))
        basis = "the test rows of the dataset"
    else:
        prompts = rows.prompts(["prompt_id", "messages"]).rename({"messages": "teacher_messages"})
        every = second_requests(distillation, prompts, every=True)
        wanted = distillation.spec.evaluation.teacher_resample
        calls, most = _at_most(distillation, teacher, every, len(every) if wanted is True else int(wanted))
        basis = "the test prompts of the source"
    return EvaluationCalls(
        asking=Asking.SECOND_ANSWERS.value, calls=calls, exact=rows.are_known, most_microusd=most, basis=basis
    )


def _counted(distillation: Distillation, teacher: Teacher, prompts: pl.DataFrame) -> tuple[TeacherCalls, int]:
    """The calls that prompts (messages, sample) need, and the most that they can cost."""
    requests = prompts.with_columns(teacher.identity.request_keys(prompts))
    with store_to_read(distillation.project.store_url) as store:
        found = survey(store, [requests], teacher.most_microusd)
    calls = TeacherCalls(needed=found.missing, stored=found.stored, in_batches=found.in_batches)
    return calls, found.most_microusd


def _at_most(
    distillation: Distillation, teacher: Teacher, prompts: pl.DataFrame, wanted: int
) -> tuple[TeacherCalls, int]:
    """The same where any `wanted` of the prompts may be asked: as many calls as can be needed, the dearest ones."""
    requests = prompts.with_columns(teacher.identity.request_keys(prompts))
    with store_to_read(distillation.project.store_url) as store:
        found = survey(store, [requests])
        missing = pl.concat([requests.clear(), *open_requests(store, [requests])])
    needed = min(wanted, found.missing)
    travelling = min(wanted - needed, found.in_batches)
    stored = min(wanted - needed - travelling, found.stored)
    dearest = teacher.most_microusd(missing).sort(descending=True).head(needed)
    return TeacherCalls(needed=needed, stored=stored, in_batches=travelling), int(dearest.sum())
