"""The dataset stage: all partitions' answers, curated and split, as one immutable version with a manifest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.dataset.assemble import assemble
from distill_dagster.dataset.curate import Curated
from distill_dagster.dataset.files import DATASET_SCHEMA, SplitFiles, splits_of
from distill_dagster.errors import DatasetError, StorageError
from distill_dagster.golden.build import ASSET as GOLDEN_SET
from distill_dagster.golden.build import golden_version, read_golden_set
from distill_dagster.lineage.builds import BuildRecord, Builds, build_key
from distill_dagster.lineage.manifests import Manifest, spec_hash, write_manifest
from distill_dagster.project import Distillation
from distill_dagster.prompts.splits import check_held_out
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.storage import Current, new_folder, read_current, write_current, write_file

__all__ = [
    "ASSET",
    "DATASET_SCHEMA",
    "STAGE_NUMBER",
    "DatasetBuild",
    "build_dataset",
    "dataset_build_key",
    "dropped_rows",
]

ASSET = "dataset"
STAGE_NUMBER = 1
IsCurrent = Callable[[str], bool]


@dataclass(frozen=True)
class DatasetBuild:
    """An adopted dataset.

    Args:
        version: content hash of the curated rows.
        build_key: hash of the inputs' versions and the curation settings.
        folder: where its files lie.
        split_counts: rows of train, validation and test, and of held_out where it has any.
        drop_counts: dropped answers by reason.
        missing: partitions left out under `curation.allow_missing`.
        changed: whether readers see another version than before.
    """

    version: str
    build_key: str
    folder: Path
    split_counts: Mapping[str, int]
    drop_counts: Mapping[str, int]
    missing: tuple[str, ...]
    changed: bool


@dataclass(frozen=True)
class _Inputs:
    """The current partitions: versions of prompts and outputs, those without current outputs, and the golden set."""

    prompts: Mapping[str, str]
    outputs: Mapping[str, str]
    missing: tuple[str, ...]
    golden: str | None

    @property
    def versions(self) -> dict[str, str]:
        versions = {f"prompts/{partition}": self.prompts[partition] for partition in self.outputs}
        versions |= {f"teacher_outputs/{partition}": version for partition, version in self.outputs.items()}
        return versions | ({GOLDEN_SET: self.golden} if self.golden is not None else {})

    def key(self, spec: DistillationSpec) -> str:
        return build_key(ASSET, STAGE_NUMBER, self.versions, curation_settings(spec))


def dataset_build_key(distillation: Distillation, is_current: IsCurrent | None = None) -> str | None:
    """The build key that the present inputs give, from a few small files; None while it cannot be built.

    Args:
        distillation: whose dataset.
        is_current: whether a partition's teacher outputs belong to its current prompts. Default: any outputs do.
    """
    inputs = _inputs(distillation, is_current)
    if distillation.spec.golden_set is not None and inputs.golden is None:
        return None
    if not inputs.outputs or (inputs.missing and not distillation.spec.curation.allow_missing):
        return None
    return inputs.key(distillation.spec)


def dataset_key_for(distillation: Distillation, prompts: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """The build key that versions of prompts and answers, by partition, would give with the current golden set."""
    return _Inputs(prompts, outputs, (), golden_version(distillation)).key(distillation.spec)


def dataset_current(distillation: Distillation, is_current: IsCurrent | None = None) -> bool:
    """Whether the current dataset is the one the present inputs give."""
    current = read_current(distillation.files.asset(ASSET))
    key = dataset_build_key(distillation, is_current)
    return current is not None and current.build_key == key and _folder(distillation, current.version).is_dir()


def build_dataset(
    distillation: Distillation, is_current: IsCurrent | None = None, rebuild: bool = False
) -> DatasetBuild:
    """Builds the dataset of the current prompts and answers, or adopts the build they had before.

    Args:
        distillation: the declaration and its places.
        is_current: whether a partition's teacher outputs belong to its current prompts. Default: any outputs do.
        rebuild: build anew although the build key has an adopted version.

    Raises:
        DatasetError: partitions without current teacher outputs (unless `curation.allow_missing`), one prompt in two
            partitions, prompts from before other partitions were held out, or no row left to train on.
        SpecError: a held-out partition does not exist, or all partitions are held out.
        StorageError: an input's file is gone.
    """
    inputs = _inputs(distillation, is_current)
    _check(distillation, inputs)
    key = inputs.key(distillation.spec)
    builds = Builds(distillation.project.home)
    known = builds.find(key)
    if known is not None and not rebuild and _folder(distillation, known.version).is_dir():
        return _adopted(distillation, known)
    record = _make(distillation, inputs, key)
    is_lost = known is not None and not _folder(distillation, known.version).is_dir()
    return _adopted(distillation, builds.adopt(record, rebuild=rebuild or is_lost))


def dropped_rows(distillation: Distillation, key: str) -> pl.DataFrame:
    """What a build left out, and why: DROPPED columns. One version can come from builds that dropped different rows.

    Raises:
        StorageError: that build left no such file.
    """
    path = _dropped_path(distillation, key)
    if not path.is_file():
        raise StorageError(f"{path}: missing; materialise `dataset` again")
    return pl.read_parquet(path)


def _inputs(distillation: Distillation, is_current: IsCurrent | None) -> _Inputs:
    files = distillation.files
    prompts: dict[str, str] = {}
    outputs: dict[str, str] = {}
    missing: list[str] = []
    for partition in files.partitions("prompts"):
        asked = read_current(files.asset("prompts", partition))
        if asked is None:
            continue
        prompts[partition] = asked.version
        answered = read_current(files.asset("teacher_outputs", partition))
        if answered is None or (is_current is not None and not is_current(partition)):
            missing.append(partition)
        else:
            outputs[partition] = answered.version
    return _Inputs(prompts, outputs, tuple(missing), golden_version(distillation))


def _check(distillation: Distillation, inputs: _Inputs) -> None:
    name = distillation.name
    if not inputs.prompts:
        raise DatasetError(f"{name}: no partition has prompts yet; materialise `prompts` and `teacher_outputs` first")
    if distillation.spec.golden_set is not None and inputs.golden is None:
        raise DatasetError(
            f"{name}: the golden set is not read yet, so its rows cannot be kept out; materialise it first"
        )
    if inputs.missing and not (distillation.spec.curation.allow_missing and inputs.outputs):
        listed = ", ".join(inputs.missing)
        raise DatasetError(
            f"{name}: no current teacher outputs for {len(inputs.missing)} of {len(inputs.prompts)} partitions: "
            f"{listed}; materialise `teacher_outputs` there, or build without them by `curation.allow_missing: true`"
        )
    check_held_out(distillation.spec.evaluation.held_out_partitions, inputs.prompts)


def curation_settings(spec: DistillationSpec) -> dict[str, Any]:
    """The settings that decide which rows are kept; which partitions may be missing shows in the inputs."""
    settings = spec.curation.model_dump(mode="json", exclude={"allow_missing"})
    settings["drop"] = sorted(set(spec.curation.drop))
    held_out = sorted(set(spec.evaluation.held_out_partitions))
    return settings | ({"held_out_partitions": held_out} if held_out else {})


def _make(distillation: Distillation, inputs: _Inputs, key: str) -> BuildRecord:
    golden = read_golden_set(distillation, inputs.golden) if inputs.golden is not None else None
    assembled = assemble(distillation, inputs.prompts, inputs.outputs, golden)
    curated, version = assembled.curated, assembled.version
    splits = splits_of(curated.kept["split"])
    counts = {split.value: int((curated.kept["split"] == split.value).sum()) for split in splits}
    if not counts["train"]:
        raise DatasetError(f"{distillation.name}: no row is left to train on ({_told(counts, curated)})")
    summary = {"rows": counts, "dropped": curated.drop_counts, "missing": list(inputs.missing)}
    manifest = Manifest(
        distillation=distillation.name,
        asset=ASSET,
        version=version,
        build_key=key,
        inputs=inputs.versions,
        spec_hash=spec_hash(distillation.spec),
        counts=counts | {f"dropped_{reason}": count for reason, count in curated.drop_counts.items()},
        details={
            "missing_partitions": list(inputs.missing),
            "curation": curation_settings(distillation.spec),
            "authorization": distillation.spec.teacher.authorization,
        },
    )
    write_file(_dropped_path(distillation, key), lambda aside: curated.dropped.write_parquet(aside))
    folder = _folder(distillation, version)
    if not folder.is_dir():
        with new_folder(folder) as aside:
            with SplitFiles(aside, splits, plain=assembled.plain) as files:
                for rows in assembled.rows():
                    files.write(rows)
            write_manifest(aside, manifest)
    return BuildRecord(build_key=key, asset=ASSET, version=version, inputs=inputs.versions, summary=summary)


def _adopted(distillation: Distillation, record: BuildRecord) -> DatasetBuild:
    folder = distillation.files.asset(ASSET)
    before = read_current(folder)
    write_current(folder, Current(record.version, record.build_key))
    return DatasetBuild(
        version=record.version,
        build_key=record.build_key,
        folder=_folder(distillation, record.version),
        split_counts=record.summary["rows"],
        drop_counts=record.summary["dropped"],
        missing=tuple(record.summary["missing"]),
        changed=before is None or before.version != record.version,
    )


def _told(counts: Mapping[str, int], curated: Curated) -> str:
    kept = [f"{split}: {count} kept" for split, count in counts.items() if count]
    return ", ".join([*kept, *(f"{reason}: {count} dropped" for reason, count in curated.drop_counts.items())])


def _folder(distillation: Distillation, version: str) -> Path:
    return distillation.files.asset(ASSET) / version


def _dropped_path(distillation: Distillation, key: str) -> Path:
    return distillation.files.asset(ASSET) / "dropped" / f"{key}.parquet"
