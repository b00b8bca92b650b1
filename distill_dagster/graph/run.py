"""Materialises what a plan says, in this process, as Dagster runs on the project's instance."""

import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import dagster as dg

from distill_dagster.golden.build import golden_current
from distill_dagster.graph.definitions import build_assets, following_checks
from distill_dagster.graph.evaluation import evaluation_config
from distill_dagster.graph.instance_home import fail_dead_runs, process_tag
from distill_dagster.graph.keys import DISTILLATION_TAG, asset_key
from distill_dagster.graph.partitioned import partitioned_config
from distill_dagster.graph.partitions import range_tags, register
from distill_dagster.graph.pools import GPU, slot, teacher_pool
from distill_dagster.graph.release import gate_key, is_verdict
from distill_dagster.graph.untold import tell_untold
from distill_dagster.plan import Asset, PartitionedPlan, Request, Step, partitioned_kinds, plan_partitioned, plan_rest
from distill_dagster.planning.evaluation_calls import allowed_calls
from distill_dagster.planning.make import planned_calls, planned_evaluation_calls
from distill_dagster.planning.model import EvaluationCalls
from distill_dagster.project import Distillation
from distill_dagster.releases.admission import withheld
from distill_dagster.releases.build import read_release
from distill_dagster.teachers.outputs import make_teacher, outputs_current, remove_partitions
from distill_dagster.teachers.protocol import TeacherIdentity
from distill_dagster.worker_process import no_launch

PLANNED_TAG = "distill/planned_teacher_calls"
PLANNED_EVALUATION_TAG = "distill/planned_{asking}"
INTERRUPTED = "DagsterExecutionInterruptedError"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        done: assets made, for people to read.
        failure: what went wrong, if anything did.
        withheld: why a release was not made, by student; everything else is done then.
        waiting: partitions whose answers are in provider batches; nothing that needs them was made.
        dead_runs: Dagster runs of killed processes that were marked failed.
    """

    done: list[str] = field(default_factory=list)
    failure: str | None = None
    withheld: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    dead_runs: list[str] = field(default_factory=list)


class Runner:
    """Runs one distillation's plan."""

    def __init__(
        self,
        distillation: Distillation,
        instance: dg.DagsterInstance,
        say: Callable[[str], None],
        *,
        wait: bool = True,
    ) -> None:
        """Args:
        say: takes what the user should read.
        wait: whether to stay until provider batches have ended; else they are only sent.
        """
        self._distillation = distillation
        self._instance = instance
        self._say = say
        self._wait = wait
        definitions = dg.Definitions(
            assets=build_assets(distillation, pooled=False), asset_checks=following_checks(distillation)
        )
        self._job = definitions.resolve_implicit_global_asset_job_def()

    def run(self, request: Request) -> Outcome:
        """Makes what is due and no more.

        Raises:
            DistillError: the request or the sources make no sense; nothing ran then.
        """
        outcome = Outcome(dead_runs=fail_dead_runs(self._instance))
        try:
            self._make_due(request, outcome)
        finally:
            tell_untold(self._distillation, self._instance)
        return outcome

    def _make_due(self, request: Request, outcome: Outcome) -> None:
        teacher = make_teacher(self._distillation, no_launch)
        identity = teacher.identity
        plan = plan_partitioned(self._distillation, identity, request.partitions)
        register(self._distillation, self._instance, list(plan.found))
        further = self._evaluation_calls(plan, request, identity)
        if plan.removed:
            remove_partitions(self._distillation, plan.found)
            self._say(f"partitions no longer in the source: {', '.join(plan.removed)}")
        if request.wants(Asset.GOLDEN_SET):
            golden_current(self._distillation)  # a bad row is told of before the teacher is paid
        calls = planned_calls(self._distillation, teacher, plan) if request.wants(Asset.TEACHER_OUTPUTS) else None
        self._run_partitioned(plan.due(request), request, identity, outcome, calls.most if calls else None)
        if outcome.failure is None and not outcome.waiting and request.wants(Asset.GOLDEN_SET):
            students = request.student_names(self._distillation)
            steps = plan_rest(self._distillation, identity, students)
            self._run_rest([step for step in steps if request.wants(step.asset)], outcome, further)
            if outcome.failure is None and request.wants(Asset.RELEASE):
                self._note_releases(students, outcome)

    def release(self, student: str) -> str | None:
        """Makes the release of one student alone, and its gate's check with it; returns what failed, or None."""
        key = asset_key(self._distillation.name, Asset.RELEASE, student)
        return self._execute([key], tags={}, config={}, pool=None, checks=[gate_key(self._distillation, student)])

    def _run_partitioned(
        self,
        due: Sequence[str],
        request: Request,
        identity: TeacherIdentity,
        outcome: Outcome,
        planned: int | None,
    ) -> None:
        if not due:
            return
        name = self._distillation.name
        kinds = [asset for asset in partitioned_kinds(self._distillation) if request.wants(asset)]
        answers = Asset.TEACHER_OUTPUTS in kinds
        self._say(f"{', '.join(kinds[:-1])}{' and ' if kinds[1:] else ''}{kinds[-1]} of {_listed(due)}")
        outcome.failure = self._execute(
            [asset_key(name, asset) for asset in kinds],
            tags=range_tags(self._distillation, self._instance, due)
            | ({PLANNED_TAG: str(planned)} if planned is not None else {}),
            config=partitioned_config(name, due, wait=self._wait, planned_calls=planned),
            pool=teacher_pool(self._distillation.spec.teacher) if answers else None,
        )
        if outcome.failure is not None:
            return
        if answers and not self._wait:
            outcome.waiting = [p for p in due if not outputs_current(self._distillation, p, identity)]
        outcome.done += [
            f"{asset}[{partition}]"
            for asset in kinds
            for partition in due
            if asset is Asset.PROMPTS or partition not in outcome.waiting
        ]

    def _evaluation_calls(
        self, plan: PartitionedPlan, request: Request, identity: TeacherIdentity
    ) -> list[EvaluationCalls]:
        if not request.wants(Asset.EVALUATION):
            return []
        return planned_evaluation_calls(self._distillation, identity, plan, request.student_names(self._distillation))

    def _run_rest(self, steps: Sequence[Step], outcome: Outcome, planned: Sequence[EvaluationCalls]) -> None:
        if not steps:
            return
        names = [_named(step.asset, step.name) for step in steps]
        self._say(f"{', '.join(names)}: {steps[0].why}")
        keys = [asset_key(self._distillation.name, step.asset, step.name) for step in steps]
        trains = any(step.asset in (Asset.STUDENT, Asset.EVALUATION) for step in steps)
        evaluated = [step.name for step in steps if step.asset is Asset.EVALUATION and step.name is not None]
        outcome.failure = self._execute(
            keys,
            tags=_planned_tags(planned) if evaluated else {},
            config=evaluation_config(
                self._distillation.name, {name: allowed_calls(planned, name) for name in evaluated}
            ),
            pool=GPU if trains else None,
        )
        if outcome.failure is None:
            outcome.done += names

    def _note_releases(self, students: Sequence[str], outcome: Outcome) -> None:
        """Takes releases that were planned and not made out of what is done, and says which are made by an override."""
        outcome.withheld = {name: str(error) for name, error in withheld(self._distillation, students).items()}
        missed = {_named(Asset.RELEASE, name) for name in outcome.withheld}
        outcome.done = [name for name in outcome.done if name not in missed]
        for student in students:
            made = read_release(self._distillation, student)
            if _named(Asset.RELEASE, student) in outcome.done and made is not None and made.override is not None:
                self._say(f"release {student}: {made.override.sentence}")

    def _execute(
        self,
        keys: list[dg.AssetKey],
        tags: dict[str, str],
        config: dict[str, object],
        pool: str | None,
        checks: Sequence[dg.AssetCheckKey] | None = None,
    ) -> str | None:
        """Executes one Dagster run, once its pool has room; returns what failed, or None. A verdict is no failure.

        Args:
            checks: evaluated in the run; default: those of the assets.
        """
        run_id = str(uuid.uuid4())
        job = self._job.get_subset(asset_selection=set(keys), asset_check_selection=set(checks) if checks else None)
        try:
            with slot(self._instance, pool, run_id, self._say):
                result = job.execute_in_process(
                    run_id=run_id,
                    instance=self._instance,
                    tags={**tags, **process_tag(), DISTILLATION_TAG: self._distillation.name},
                    run_config={**config, **QUIET},
                    raise_on_error=False,
                )
        except KeyboardInterrupt:  # while waiting for the slot; inside the run Dagster makes it a failure of the step
            return "interrupted"
        if result.success:
            return None
        events = result.get_step_failure_events()
        failures = [_failure_text(event) for event in events if not is_verdict(event)]
        if events and not failures:
            return None
        return "\n".join(failures) or "the run failed"


def _planned_tags(planned: Sequence[EvaluationCalls]) -> dict[str, str]:
    """The most calls of all evaluations of a run, by what for."""
    most: Counter[str] = Counter()
    for one in planned:
        most[one.asking] += one.calls.needed + one.calls.in_batches
    return {PLANNED_EVALUATION_TAG.format(asking=asking): str(count) for asking, count in most.items()}


def _named(asset: Asset, name: str | None) -> str:
    return f"{asset} {name}" if name else str(asset)


def _failure_text(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return str(failure.user_failure_data.description)
    error = failure.error
    if error is not None and error.cls_name == INTERRUPTED:
        return "interrupted"
    return str(error.to_string()) if error is not None else str(event.message)


def _listed(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more partitions"
