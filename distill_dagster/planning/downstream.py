"""What becomes of dataset, students, evaluations: surely another version, perhaps another, or the same."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from distill_dagster.dataset.build import ASSET as DATASET
from distill_dagster.dataset.build import curation_settings, dataset_current
from distill_dagster.lineage.manifests import MANIFEST_FILE, read_manifest
from distill_dagster.plan import PartitionedPlan
from distill_dagster.planning.adoption import adopted_dataset, adopted_evaluation, adopted_student
from distill_dagster.planning.causes import changed_fields
from distill_dagster.planning.effects import Downstream, Effect
from distill_dagster.planning.releasing import plan_releases
from distill_dagster.project import Distillation
from distill_dagster.prompts.changes import STUDENT_COLUMNS
from distill_dagster.prompts.store import prompts_file
from distill_dagster.storage import read_current
from distill_dagster.students.build import asset_of as student_asset
from distill_dagster.students.build import student_current, student_key_for, student_settings
from distill_dagster.teachers.outputs import outputs_current
from distill_dagster.teachers.protocol import TeacherIdentity

_AS_READ = ["prompt_id", *STUDENT_COLUMNS]


def plan_downstream(
    distillation: Distillation,
    identity: TeacherIdentity,
    upstream: PartitionedPlan,
    *,
    golden_due: bool,
    students: Sequence[str],
) -> Downstream:
    """What becomes of dataset, students, evaluations and releases.

    Args:
        upstream: what the partitions need.
        golden_due: whether the golden set gets another version.
        students: those meant.
    """
    dataset = _dataset(distillation, identity, upstream, golden_due)
    if dataset.action != "none":
        adopts = adopted_dataset(distillation, identity, upstream, golden_due=golden_due)
        if adopts is not None:
            dataset = _adopting(distillation, dataset, adopts)
    coming = _coming_dataset(distillation, dataset)
    effects = {name: _student(distillation, identity, upstream, name, dataset) for name in students}
    versions = _coming_students(distillation, effects, coming)
    evaluations = {name: _evaluation(distillation, name, effects, dataset) for name in students}
    if coming is not None and not golden_due and set(students) <= set(versions):
        evaluations = {name: _taken_over(distillation, name, evaluations[name], coming, versions) for name in students}
    releases = plan_releases(distillation, evaluations)
    return Downstream(dataset, effects, evaluations, releases, coming, versions)


def _adopting(distillation: Distillation, dataset: Effect, adopts: str) -> Effect:
    """What is known once the dataset's coming version is: nothing that follows changes where it is the present one."""
    current = read_current(distillation.files.asset(DATASET))
    if current is not None and current.version == adopts:
        return Effect("none")
    return replace(dataset, action="will", adopts=adopts)


def _dataset(
    distillation: Distillation, identity: TeacherIdentity, upstream: PartitionedPlan, golden_due: bool
) -> Effect:
    if upstream.failed and not distillation.spec.curation.allow_missing:
        return Effect("none", (f"cannot be built: the rows of {_listed(list(upstream.failed))} have to be mended",))
    current = read_current(distillation.files.asset(DATASET))
    folder = distillation.files.asset(DATASET) / current.version if current else None
    if folder is None or not (folder / MANIFEST_FILE).is_file():
        return Effect("will", ("not built yet",))
    gone = _rows_of_dataset(distillation, upstream, folder.name)
    if gone:
        return Effect("will", (f"{gone:,} of its prompts are changed or removed",))
    why = [f"{sum(c.new for c in upstream.changes.values()):,} new prompts"] if _has_new(upstream) else []
    if upstream.outputs and not why:
        why.append(f"answers of {len(upstream.outputs):,} partitions are to come")
    why += ["golden_set"] if golden_due else []
    settings = changed_fields(read_manifest(folder)["details"]["curation"], curation_settings(distillation.spec), "")
    why += [f"curation.{name}" for name in settings]
    if not why and dataset_current(distillation, lambda p: outputs_current(distillation, p, identity)):
        return Effect("none")
    return Effect("may", tuple(why) or ("its inputs changed",))


def _has_new(upstream: PartitionedPlan) -> bool:
    return any(changes.new for changes in upstream.changes.values())


def _rows_of_dataset(distillation: Distillation, upstream: PartitionedPlan, version: str) -> int:
    """How many prompts of the current dataset students would read otherwise, or are gone from the source."""
    changed = [one.changed_for_students for one in upstream.changes.values() if len(one.changed_for_students)]
    ids = [*changed, *_gone(distillation, upstream)]
    if not ids:
        return 0
    files = sorted((distillation.files.asset(DATASET) / version).glob("*.parquet"))
    kept = pl.scan_parquet(files).select("prompt_id").unique()
    touched = pl.concat(ids).unique().to_frame("prompt_id").lazy()
    return int(kept.join(touched, on="prompt_id", how="semi").select(pl.len()).collect().item())


def _gone(distillation: Distillation, upstream: PartitionedPlan) -> list[pl.Series]:
    """Ids of prompts that left their partition, but for those that come into another one as students know them."""
    left = []
    for name, changes in upstream.changes.items():
        if len(changes.removed):
            gone = pl.col("prompt_id").is_in(changes.removed.implode())
            left.append(pl.scan_parquet(prompts_file(distillation, name)).filter(gone).select(_AS_READ).collect())
    for partition in upstream.removed:
        folder = distillation.files.asset("prompts", partition)
        current = read_current(folder)
        if current is not None and (path := folder / f"{current.version}.parquet").is_file():
            left.append(pl.read_parquet(path, columns=_AS_READ))
    if not left:
        return []
    fresh = pl.concat(placed.fresh.select(_AS_READ) for placed in upstream.build.placed.values())
    return [pl.concat(left).join(fresh, on=_AS_READ, how="anti", nulls_equal=True)["prompt_id"]]


def _student(
    distillation: Distillation, identity: TeacherIdentity, upstream: PartitionedPlan, name: str, dataset: Effect
) -> Effect:
    if dataset.action == "none" and dataset.why:
        return Effect("none", ("there is no dataset to train on",))
    spec = distillation.spec.students[name]
    current = read_current(distillation.files.asset(student_asset(name)))
    folder = distillation.files.asset(student_asset(name)) / current.version if current else None
    if folder is None or not (folder / MANIFEST_FILE).is_file():
        return Effect("will", ("not trained yet",))
    trained = read_manifest(folder)["details"].get("settings", {})
    settings = changed_fields(trained, student_settings(spec), f"students.{name}")
    if dataset.action == "will" or settings:
        coming = _coming_dataset(distillation, dataset)
        adopts = adopted_student(distillation, identity, upstream, name, coming) if coming is not None else None
        return Effect("will", (*settings, *(["dataset"] if dataset.action == "will" else [])), adopts)
    if dataset.action == "may":
        return Effect("may", ("dataset",))
    if spec.objective == "logit" and upstream.logits:
        return Effect("may", ("teacher_logits",))
    return Effect("none") if student_current(distillation, name) else Effect("will", ("its base or captured logits",))


def _coming_dataset(distillation: Distillation, dataset: Effect) -> str | None:
    """The version that students will be trained on, where it is known."""
    if dataset.action == "none":
        current = read_current(distillation.files.asset(DATASET))
        return current.version if current is not None else None
    return dataset.adopts


def _coming_students(distillation: Distillation, effects: Mapping[str, Effect], coming: str | None) -> dict[str, str]:
    """Versions of the students that will be those of a dataset; those that are trained only then are left out."""
    versions = {}
    for name in distillation.spec.students if coming is not None else ():
        effect = effects.get(name)
        current = read_current(distillation.files.asset(student_asset(name)))
        if effect is not None and effect.adopts is not None:
            versions[name] = effect.adopts
        elif current is None or (effect is not None and effect.action != "none"):
            continue
        elif effect is not None or current.build_key == student_key_for(distillation, name, str(coming)):
            versions[name] = current.version
    return versions


def _taken_over(
    distillation: Distillation, name: str, evaluation: Effect, dataset: str, versions: Mapping[str, str]
) -> Effect:
    """An evaluation with the version that an earlier one of the same models had, if there was one."""
    if evaluation.action == "none":
        return evaluation
    adopts = adopted_evaluation(distillation, name, dataset, versions)
    return evaluation if adopts is None else replace(evaluation, action="will", adopts=adopts)


def _evaluation(distillation: Distillation, name: str, students: Mapping[str, Effect], dataset: Effect) -> Effect:
    if dataset.action == "none" and dataset.why:
        return Effect("none", ("there is no student to measure",))
    from distill_dagster.evaluation.build import asset_of, evaluation_current  # loads SciPy

    if read_current(distillation.files.asset(asset_of(name))) is None:
        return Effect("will", ("not evaluated yet",))
    for action in ("will", "may"):
        causes = tuple(f"student {other}" for other, effect in students.items() if effect.action == action)
        if causes:
            return Effect(action, causes)
    if evaluation_current(distillation, name):
        return Effect("none")
    return Effect("will", ("evaluation settings or models",))


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(sorted(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
