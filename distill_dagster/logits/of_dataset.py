"""The captured sequences of a dataset's rows, whatever partitions they lie in."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from distill_dagster.errors import LogitsError
from distill_dagster.lineage.builds import Builds
from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.lineage.hashing import digest, frame_version
from distill_dagster.logits.build import ASSET, logits_current
from distill_dagster.logits.declared import capture_identity
from distill_dagster.logits.index import index_path, read_index
from distill_dagster.project import Distillation
from distill_dagster.prompts.splits import LEARNT_FROM
from distill_dagster.storage import read_current, read_json, remember

KEY = ["prompt_id", "sample"]
CONTENT = ("prompt_id", "sample", "request_key", "ids_hash")


def dataset_logits_version(distillation: Distillation, dataset_version: str) -> str | None:
    """Content hash of what was captured for a dataset's training and validation rows.

    It does not hang on partitions: cutting the prompts into others trains nothing again. Computed once for the same
    dataset and indexes, and remembered.

    Returns:
        None while a partition of the dataset is not captured as declared.
    """
    identity = capture_identity(distillation)
    partitions = distillation.files.partitions("teacher_outputs")
    if not all(logits_current(distillation, partition, identity) for partition in partitions):
        return None
    return logits_version_for(distillation, dataset_version, _current(distillation, partitions))


def logits_version_for(distillation: Distillation, dataset_version: str, versions: Mapping[str, str]) -> str:
    """The same from some versions of the partitions' indexes, whether they are current or not."""
    name = digest({"dataset": dataset_version, "logits": dict(versions)})[:32]
    remembered = distillation.project.home / "digests" / f"logits-{name}.json"
    if remembered.is_file():
        return str(read_json(remembered)["version"])
    version = _version(_places(distillation, dataset_version, versions), capture_identity(distillation))
    remember(remembered, {"version": version})
    return version


def dataset_places(distillation: Distillation, dataset_version: str) -> pl.DataFrame:
    """INDEX columns of all training and validation rows of a dataset that are captured, by prompt_id and sample.

    Raises:
        LogitsError: no partition is captured.
    """
    versions = _current(distillation, distillation.files.partitions(ASSET))
    if not versions:
        raise LogitsError(f"{distillation.name}: nothing is captured yet; materialise `{ASSET}` first")
    return _places(distillation, dataset_version, versions)


def _current(distillation: Distillation, partitions: Iterable[str]) -> dict[str, str]:
    """The current index of each of the partitions that have one."""
    found = {name: read_current(distillation.files.asset(ASSET, name)) for name in partitions}
    return {name: current.version for name, current in found.items() if current is not None}


def _places(distillation: Distillation, dataset_version: str, versions: Mapping[str, str]) -> pl.DataFrame:
    folder = distillation.files.asset("dataset") / dataset_version
    rows = pl.concat(pl.read_parquet(folder / f"{split}.parquet", columns=KEY) for split in LEARNT_FROM)
    paths = [index_path(distillation.files.asset(ASSET, name), version) for name, version in versions.items()]
    indexes = [read_index(path).frame for path in paths]
    return pl.concat(indexes).join(rows, on=KEY, how="semi").unique(KEY, keep="first").sort(KEY)


def captured_bytes_per_token(distillation: Distillation) -> float | None:
    """Bytes on disk of a token's sparse targets, over all current partitions; None where nothing is captured."""
    sums = {"bytes": 0.0, "tokens": 0.0}
    for partition in distillation.files.partitions(ASSET):
        current = read_current(distillation.files.asset(ASSET, partition))
        record = Builds(distillation.project.home).find(current.build_key) if current and current.build_key else None
        for name in sums:
            sums[name] += float(record.summary[name]) if record else 0.0
    return sums["bytes"] / sums["tokens"] if sums["tokens"] else None


def write_places(path: Path, places: pl.DataFrame) -> None:
    """What a `logit` student's job reads."""
    places.select(*CONTENT, "has_hidden", "shard", "row").write_parquet(path)


def _version(places: pl.DataFrame, identity: CaptureIdentity) -> str:
    return digest({"capture": identity.digest, "rows": frame_version(places, CONTENT)})[:32]
