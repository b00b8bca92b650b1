"""What would run and why, from hashes on disk and one reading of the sources; it pays nothing and loads no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from distill_dagster.dataset.build import dataset_current
from distill_dagster.errors import DistillError
from distill_dagster.golden.build import golden_current
from distill_dagster.logits.build import logits_current
from distill_dagster.logits.declared import capture_identity, needs_logits
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import PromptBuild, build_prompts
from distill_dagster.prompts.changes import Changes, changes_of
from distill_dagster.students.build import student_current
from distill_dagster.teachers.outputs import outputs_current
from distill_dagster.teachers.protocol import Teacher, TeacherIdentity


class Asset(StrEnum):
    """The kinds of asset, in the order in which they are made."""

    PROMPTS = "prompts"
    TEACHER_OUTPUTS = "teacher_outputs"
    TEACHER_LOGITS = "teacher_logits"
    GOLDEN_SET = "golden_set"
    DATASET = "dataset"
    STUDENT = "student"
    EVALUATION = "evaluation"
    RELEASE = "release"


ORDER = tuple(Asset)


def partitioned_kinds(distillation: Distillation) -> list[Asset]:
    """The partitioned assets of a distillation; logits only where a student learns from them."""
    kinds = [Asset.PROMPTS, Asset.TEACHER_OUTPUTS]
    return [*kinds, Asset.TEACHER_LOGITS] if needs_logits(distillation) else kinds


@dataclass(frozen=True)
class Request:
    """What the user asked to run.

    Attributes:
        partitions: only these, up to their captured logits; None for all and everything behind them.
        students: only these students; None for all.
        until: the last kind of asset to make.
    """

    partitions: Sequence[str] | None = None
    students: Sequence[str] | None = None
    until: Asset = ORDER[-1]

    def wants(self, asset: Asset) -> bool:
        """Whether the request reaches as far as an asset."""
        last = Asset.TEACHER_LOGITS if self.partitions is not None else self.until
        return ORDER.index(asset) <= min(ORDER.index(last), ORDER.index(self.until))

    def student_names(self, distillation: Distillation) -> list[str]:
        """The students meant.

        Raises:
            DistillError: one of them is not declared.
        """
        declared = list(distillation.spec.students)
        strangers = sorted(set(self.students or ()).difference(declared))
        if strangers:
            raise DistillError(
                f"no student {', '.join(strangers)} is declared (known: {', '.join(declared) or 'none'})"
            )
        return declared if self.students is None else list(self.students)


@dataclass(frozen=True)
class PartitionedPlan:
    """What the partitioned assets need.

    Attributes:
        prompts: why, by partition whose prompts are not those of the source.
        outputs: why, by partition whose answers are not those of its prompts.
        logits: why, by partition whose answers are not captured as declared.
        removed: partitions that the source no longer has.
        failed: what is wrong with a partition's rows.
        found: all partitions of the source.
        changes: rows of each partition beside the stored ones; not of failed ones.
        build: the reading of the source that this is about.
    """

    prompts: Mapping[str, str]
    outputs: Mapping[str, str]
    logits: Mapping[str, str]
    removed: tuple[str, ...]
    failed: Mapping[str, str]
    found: tuple[str, ...]
    changes: Mapping[str, Changes]
    build: PromptBuild

    def due(self, request: Request) -> list[str]:
        """Partitions with anything to do as far as the request reaches, sorted."""
        outputs = self.outputs if request.wants(Asset.TEACHER_OUTPUTS) else {}
        logits = self.logits if request.wants(Asset.TEACHER_LOGITS) else {}
        return sorted({*self.prompts, *outputs, *logits, *self.failed})


@dataclass(frozen=True)
class StoredPlan:
    """What the prompts on disk need, whatever their source has: `outputs` and `logits` as in `PartitionedPlan`."""

    outputs: Mapping[str, str]
    logits: Mapping[str, str]


@dataclass(frozen=True)
class Step:
    """One unpartitioned asset to make."""

    asset: Asset
    name: str | None
    why: str


def plan_partitioned(
    distillation: Distillation, identity: TeacherIdentity, only: Sequence[str] | None = None
) -> PartitionedPlan:
    """What prompts and teacher outputs need.

    Args:
        only: restrict to these partitions.

    Raises:
        DistillError: the source has no such partition.
        SourceError, TemplateError: the source cannot be read at all.
    """
    build: PromptBuild = build_prompts(distillation)
    unknown = sorted(set(only or ()).difference(build.names))
    if unknown:
        raise DistillError(f"no partition {', '.join(unknown)} in the source (known: {', '.join(build.names)})")
    wanted = set(build.names if only is None else only)
    placed = {name: rows for name, rows in build.placed.items() if name in wanted}
    changes = {name: changes_of(rows) for name, rows in placed.items()}
    prompts = {
        name: "new" if placed[name].stored is None else "changed"
        for name, found in changes.items()
        if placed[name].stored is None or found.is_any
    }
    outputs = {
        name: "its prompts changed" if name in prompts else "not answered yet by the declared teacher"
        for name in placed
        if name in prompts or not outputs_current(distillation, name, identity)
    }
    logits = _plan_logits(distillation, list(placed), outputs)
    known = distillation.files.partitions(Asset.PROMPTS)
    removed = sorted(set(known).difference(build.names)) if build.is_complete and only is None else ()
    failed = {name: message for name, message in build.failed.items() if name in wanted}
    return PartitionedPlan(prompts, outputs, logits, tuple(removed), failed, build.names, changes, build)


def plan_stored(distillation: Distillation, identity: TeacherIdentity) -> StoredPlan:
    """What answers and logits the prompts on disk need; the source is not read."""
    found = distillation.files.partitions(Asset.PROMPTS)
    outputs = {
        name: "not answered yet by the declared teacher"
        for name in found
        if not outputs_current(distillation, name, identity)
    }
    return StoredPlan(outputs, _plan_logits(distillation, found, outputs))


def _plan_logits(distillation: Distillation, partitions: Sequence[str], outputs: Mapping[str, str]) -> dict[str, str]:
    if not needs_logits(distillation):
        return {}
    identity = capture_identity(distillation)
    return {
        name: "its answers changed" if name in outputs else "not captured yet as declared"
        for name in partitions
        if name in outputs or not logits_current(distillation, name, identity)
    }


def plan_rest(distillation: Distillation, identity: TeacherIdentity, students: Sequence[str]) -> list[Step]:
    """What golden set, dataset, students, evaluations and releases need, once the partitioned assets are done."""
    golden_due = not golden_current(distillation)
    steps = [Step(Asset.GOLDEN_SET, None, "its source changed")] if golden_due else []
    dataset_due = golden_due or not dataset_current(distillation, lambda p: outputs_current(distillation, p, identity))
    steps += [Step(Asset.DATASET, None, "its inputs changed")] if dataset_due else []
    due = {name for name in students if dataset_due or not student_current(distillation, name)}
    for name in students:
        if name in due:
            why = "the dataset may change" if dataset_due else "not trained yet on this dataset with these settings"
            steps.append(Step(Asset.STUDENT, name, why))
    for name in students:
        from distill_dagster.evaluation.build import evaluation_current  # loads SciPy, for those who have students only

        if due or not evaluation_current(distillation, name):
            why = "a student may change" if due else "not evaluated yet with these settings"
            steps.append(Step(Asset.EVALUATION, name, why))
    return [*steps, *_plan_releases(distillation, students, steps)]


def _plan_releases(distillation: Distillation, students: Sequence[str], steps: Sequence[Step]) -> list[Step]:
    """Releases that a new verdict may change, or that the present one allows and that are not made yet."""
    if distillation.spec.evaluation.gate is None:
        return []
    from distill_dagster.releases.build import release_due  # loads SciPy, for those who have a gate only
    from distill_dagster.releases.candidate import gated_students

    judged_anew = {step.name for step in steps if step.asset is Asset.EVALUATION}
    due = []
    for name in gated_students(distillation):
        if name not in students:
            continue
        if name in judged_anew:
            due.append(Step(Asset.RELEASE, name, "its verdict may change"))
        elif release_due(distillation, name):
            due.append(Step(Asset.RELEASE, name, "its verdict allows it"))
    return due


def is_anything_due(distillation: Distillation, teacher: Teacher, request: Request) -> bool:
    """Whether running the request would do anything at all."""
    plan = plan_partitioned(distillation, teacher.identity, request.partitions)
    if plan.due(request) or plan.removed:
        return True
    if not request.wants(Asset.GOLDEN_SET):
        return False
    steps = plan_rest(distillation, teacher.identity, request.student_names(distillation))
    return any(request.wants(step.asset) for step in steps)
