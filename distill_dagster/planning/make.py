"""Makes a plan: reads the source, compares, looks answers up. It pays nothing and writes nothing."""

from collections.abc import Iterator, Sequence

import pyarrow.parquet as pq

from distill_dagster.golden.build import golden_current
from distill_dagster.logits.declared import capture_identity
from distill_dagster.plan import Asset, PartitionedPlan, partitioned_kinds, plan_partitioned
from distill_dagster.planning.adoption import adopted_logits
from distill_dagster.planning.calls import CallPlan, plan_calls
from distill_dagster.planning.captures import plan_captures
from distill_dagster.planning.causes import PromptCauses, output_causes
from distill_dagster.planning.downstream import plan_downstream
from distill_dagster.planning.effects import Downstream
from distill_dagster.planning.model import AssetPlan, EvaluationCalls, Plan, RowChanges
from distill_dagster.planning.money import estimate_calls
from distill_dagster.project import Distillation
from distill_dagster.prompts.changes import Changes
from distill_dagster.prompts.store import prompts_file
from distill_dagster.spec.answers import BestOf
from distill_dagster.storage import reading_only
from distill_dagster.teachers.outputs import make_teacher, outputs_current
from distill_dagster.teachers.protocol import Teacher, TeacherIdentity
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.worker_process import no_launch


def make_plan(distillation: Distillation) -> Plan:
    """What `distill run` would do now, and why.

    Raises:
        SourceError, TemplateError, TeacherError, SpecError: what is declared cannot be read.
        StorageError: the response store cannot be opened.
    """
    with reading_only():
        teacher = make_teacher(distillation, no_launch)
        store = ResponseStore.to_read(distillation.project.store_url)
        return _Planning(distillation, teacher, store).plan()


def planned_calls(distillation: Distillation, teacher: Teacher, upstream: PartitionedPlan) -> CallPlan:
    """The teacher calls that the answers of a plan's partitions need, every key looked up; the store is only read."""
    due = {name: upstream.build.placed[name] for name in upstream.outputs}
    return plan_calls(distillation, teacher, due, ResponseStore.to_read(distillation.project.store_url))


def planned_evaluation_calls(
    distillation: Distillation, identity: TeacherIdentity, upstream: PartitionedPlan, students: Sequence[str]
) -> list[EvaluationCalls]:
    """The calls of some students' evaluations, as `make_plan` counts them."""
    if not (students and _asks(distillation)):
        return []
    downstream = plan_downstream(
        distillation, identity, upstream, golden_due=not golden_current(distillation), students=students
    )
    return _evaluation_calls(distillation, upstream, downstream)


def _evaluation_calls(
    distillation: Distillation, upstream: PartitionedPlan, downstream: Downstream
) -> list[EvaluationCalls]:
    if not _asks(distillation):
        return []
    from distill_dagster.planning.evaluation_calls import plan_evaluation_calls  # loads SciPy, for those who need it

    return plan_evaluation_calls(distillation, upstream, downstream)


def _asks(distillation: Distillation) -> bool:
    """Whether evaluations ask anybody anything."""
    declared = distillation.spec.evaluation
    return bool(declared.judge or declared.gate or declared.teacher_resample)


class _Planning:
    """One call of `make_plan`."""

    def __init__(self, distillation: Distillation, teacher: Teacher, store: ResponseStore | None) -> None:
        self._distillation = distillation
        self._teacher = teacher
        self._store = store
        self._upstream = plan_partitioned(distillation, teacher.identity)
        self._calls = self._probed_calls()
        self._sequences = self._captures()

    def plan(self) -> Plan:
        distillation, upstream = self._distillation, self._upstream
        golden_due = not golden_current(distillation)
        golden = distillation.spec.golden_set is not None
        why = ("its source changed",) if golden_due else ()
        downstream = plan_downstream(
            distillation,
            self._teacher.identity,
            upstream,
            golden_due=golden_due,
            students=list(distillation.spec.students),
        )
        assets = [
            *self._prompts(),
            *self._outputs(),
            *self._logits(),
            *([AssetPlan(asset=Asset.GOLDEN_SET, action="will" if golden_due else "none", why=why)] if golden else []),
            *downstream.plans(),
        ]
        return Plan(
            distillation=distillation.name,
            provider=distillation.spec.teacher.provider,
            model=distillation.spec.teacher.model,
            assets=tuple(assets),
            failed=dict(upstream.failed),
            rows=sum((asset.rows for asset in assets if asset.rows), RowChanges()),
            calls=self._calls.total,
            sequences=sum(self._sequences.values()),
            estimate=estimate_calls(distillation, self._teacher, self._calls, self._store),
            evaluation_calls=tuple(_evaluation_calls(distillation, upstream, downstream)),
            notes=tuple(_notes(distillation)),
        )

    def _probed_calls(self) -> CallPlan:
        """As `planned_calls`, but of answers that must be there only a few are looked up."""
        due = {name: self._upstream.build.placed[name] for name in self._upstream.outputs}
        answered = [name for name in due if outputs_current(self._distillation, name, self._teacher.identity)]
        return plan_calls(self._distillation, self._teacher, due, self._store, answered)

    def _captures(self) -> dict[str, int]:
        distillation = self._distillation
        due = {name: self._upstream.build.placed[name] for name in self._upstream.logits}
        if not due:
            return {}
        answered = [name for name in due if outputs_current(distillation, name, self._teacher.identity)]
        found = plan_captures(distillation, due, capture_identity(distillation), answered)
        for name in [name for name, count in found.items() if count]:
            if adopted_logits(distillation, self._teacher.identity, self._upstream, name) is not None:
                found[name] = 0
        return found

    def _prompts(self) -> Iterator[AssetPlan]:
        upstream = self._upstream
        causes = PromptCauses(self._distillation, upstream.build)
        for name in sorted({*upstream.found, *upstream.removed}):
            if name in upstream.removed:
                yield AssetPlan(
                    asset=Asset.PROMPTS,
                    partition=name,
                    action="will",
                    why=("no longer in the source",),
                    rows=RowChanges(removed=_stored_rows(self._distillation, name)),
                )
            elif name in upstream.failed:
                yield AssetPlan(asset=Asset.PROMPTS, partition=name, action="none", why=(upstream.failed[name],))
            else:
                changes = upstream.changes[name]
                due = name in upstream.prompts
                yield AssetPlan(
                    asset=Asset.PROMPTS,
                    partition=name,
                    action="will" if due else "none",
                    why=causes.of(name, changes) if due else (),
                    rows=_counted(changes),
                )

    def _outputs(self) -> Iterator[AssetPlan]:
        upstream = self._upstream
        for name in upstream.build.placed:
            due = name in upstream.outputs
            yield AssetPlan(
                asset=Asset.TEACHER_OUTPUTS,
                partition=name,
                action="will" if due else "none",
                why=output_causes(self._distillation, upstream, name, self._teacher.identity) if due else (),
                calls=self._calls.partitions[name] if due else None,
            )

    def _logits(self) -> Iterator[AssetPlan]:
        if Asset.TEACHER_LOGITS not in partitioned_kinds(self._distillation):
            return
        for name in self._upstream.build.placed:
            why = self._upstream.logits.get(name)
            yield AssetPlan(
                asset=Asset.TEACHER_LOGITS,
                partition=name,
                action="will" if why else "none",
                why=(why,) if why else (),
                sequences=self._sequences.get(name, 0),
            )


def _counted(changes: Changes) -> RowChanges:
    return RowChanges(
        unchanged=changes.unchanged, new=changes.new, changed=len(changes.changed), removed=len(changes.removed)
    )


def _stored_rows(distillation: Distillation, partition: str) -> int:
    return int(pq.read_metadata(prompts_file(distillation, partition)).num_rows)


def _notes(distillation: Distillation) -> Iterator[str]:
    spec = distillation.spec
    if isinstance(spec.teacher.select, BestOf) and spec.teacher.select.best.judge is not None:
        yield "the judge's verdicts on samples are not counted among the calls"
