"""Finds the earlier builds that a run would take over, as after an edit that was undone."""

from collections.abc import Mapping

from distill_dagster.dataset.build import ASSET as DATASET
from distill_dagster.dataset.build import dataset_key_for
from distill_dagster.lineage.builds import Builds
from distill_dagster.logits.build import ASSET as LOGITS
from distill_dagster.logits.build import captured_version
from distill_dagster.plan import PartitionedPlan
from distill_dagster.project import Distillation
from distill_dagster.storage import read_current
from distill_dagster.students.build import asset_of, student_key_for
from distill_dagster.teachers.outputs import ASSET as OUTPUTS
from distill_dagster.teachers.outputs import outputs_key_for
from distill_dagster.teachers.protocol import TeacherIdentity


def adopted_dataset(
    distillation: Distillation, identity: TeacherIdentity, upstream: PartitionedPlan, *, golden_due: bool
) -> str | None:
    """The version of an earlier dataset that the partitions' coming versions give again; None where it is a new one.

    Only where every partition's answers are those of an earlier build too: others cannot be known before they are made.
    """
    if golden_due or upstream.failed:
        return None
    builds = Builds(distillation.project.home)
    prompts: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for name in upstream.build.placed:
        versions = adopted_outputs(distillation, identity, upstream, name)
        if versions is None:
            return None
        prompts[name], outputs[name] = versions["prompts"], versions[OUTPUTS]
    record = builds.find(dataset_key_for(distillation, prompts, outputs))
    if record is None or not (distillation.files.asset(DATASET) / record.version).is_dir():
        return None
    return record.version


def adopted_outputs(
    distillation: Distillation, identity: TeacherIdentity, upstream: PartitionedPlan, partition: str
) -> dict[str, str] | None:
    """The coming version of a partition's `prompts`, and of the `teacher_outputs` of an earlier build; None without."""
    placed = upstream.build.placed[partition]
    stored = placed.stored
    kept = stored is not None and partition not in upstream.prompts
    prompts = stored.version if kept and stored is not None else placed.prompts().version
    record = Builds(distillation.project.home).find(outputs_key_for(distillation, prompts, identity))
    if record is None or not (distillation.files.asset(OUTPUTS, partition) / f"{record.version}.parquet").is_file():
        return None
    return {"prompts": prompts, OUTPUTS: record.version}


def adopted_logits(
    distillation: Distillation, identity: TeacherIdentity, upstream: PartitionedPlan, partition: str
) -> str | None:
    """The coming index of a partition's captured logits; None where something has to be captured for it."""
    current = read_current(distillation.files.asset(LOGITS, partition))
    if partition not in upstream.logits and current is not None:
        return current.version
    versions = adopted_outputs(distillation, identity, upstream, partition)
    return None if versions is None else captured_version(distillation, partition, versions)


def adopted_student(
    distillation: Distillation, identity: TeacherIdentity, upstream: PartitionedPlan, name: str, dataset_version: str
) -> str | None:
    """The version of a student that was trained on a dataset before; None where it would be trained now."""
    logits = None
    if distillation.spec.students[name].objective == "logit":
        found = {one: adopted_logits(distillation, identity, upstream, one) for one in upstream.build.placed}
        logits = {one: version for one, version in found.items() if version is not None}
        if len(logits) < len(found):
            return None
    key = student_key_for(distillation, name, dataset_version, logits)
    record = Builds(distillation.project.home).find(key) if key is not None else None
    if record is None or not (distillation.files.asset(asset_of(name)) / record.version).is_dir():
        return None
    return record.version


def adopted_evaluation(
    distillation: Distillation, student: str, dataset_version: str, student_versions: Mapping[str, str]
) -> str | None:
    """The version of an earlier evaluation of these students on a dataset; None where it would be made now.

    The golden set has to be the one that is stored.
    """
    from distill_dagster.evaluation import build  # loads SciPy
    from distill_dagster.evaluation.golden import golden_stored
    from distill_dagster.evaluation.subjects import subjects_of

    if not golden_stored(distillation):
        return None
    key = build.evaluation_key_for(distillation, subjects_of(distillation, student, dataset_version, student_versions))
    record = Builds(distillation.project.home).find(key)
    if record is None or not (distillation.files.asset(build.asset_of(student)) / record.version).is_dir():
        return None
    return record.version
