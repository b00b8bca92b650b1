"""What a distillation came to: everything a reader finds through its pointers, as values that can be compared."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.dataset.build import dropped_rows
from distill_dagster.lineage.manifests import read_manifest
from distill_dagster.logits.build import read_logits_index
from distill_dagster.logits.declared import capture_identity, needs_logits
from distill_dagster.logits.shards import read_sequences, shards_folder
from distill_dagster.project import Distillation
from distill_dagster.storage import read_current

Artifacts = dict[str, Any]
# Where a row of a dataset came from when its version was first made; no part of the version.
PLACES = ("partition", "request_key")
# A column that no prompt reads may change a row without changing its prompt.
UNSEEN = {"prompts": ("row_hash",), "teacher_outputs": ()}


def partitioned(distillation: Distillation) -> Artifacts:
    """Prompts, answers and captured logits of every partition in sight."""
    found: Artifacts = {}
    for asset in ("prompts", "teacher_outputs", "teacher_logits"):
        for partition in distillation.files.partitions(asset):
            folder = distillation.files.asset(asset, partition)
            current = read_current(folder)
            assert current is not None
            found[f"{asset}/{partition}"] = current
            if asset == "teacher_logits":
                found[f"{asset}/{partition} sequences"] = _sequences(distillation, partition)
            else:
                found[f"{asset}/{partition} rows"] = _rows(folder / f"{current.version}.parquet", without=UNSEEN[asset])
            if asset == "teacher_outputs":
                found[f"{asset}/{partition} lines"] = _digest(folder / f"{current.version}.jsonl")
    return found


def dataset(distillation: Distillation) -> Artifacts:
    """The golden set and the dataset, with what it left out."""
    found: Artifacts = {"golden_set": read_current(distillation.files.asset("golden_set"))}
    folder = distillation.files.asset("dataset")
    current = read_current(folder)
    assert current is not None
    assert current.build_key is not None
    found["dataset"] = current
    for file in sorted((folder / current.version).iterdir()):
        if file.suffix == ".parquet":
            found[f"dataset/{file.name}"] = _rows(file, without=PLACES)
        elif file.suffix == ".jsonl":
            found[f"dataset/{file.name}"] = _digest(file)
    found["dropped"] = dropped_rows(distillation, current.build_key).to_dicts()
    return found


def students(distillation: Distillation) -> Artifacts:
    """Students by build key, with what they were made from."""
    found: Artifacts = {}
    for name in distillation.spec.students:
        folder = distillation.files.asset(f"students/{name}")
        current = read_current(folder)
        assert current is not None
        manifest = read_manifest(folder / current.version)
        found[f"student/{name}"] = current.build_key
        found[f"student/{name} inputs"] = manifest["inputs"]
        found[f"student/{name} counts"] = manifest["counts"]
    return found


def evaluations(distillation: Distillation) -> Artifacts:
    """Evaluations by version; equal only where the students are."""
    found: Artifacts = {}
    for name in distillation.spec.students:
        found[f"student/{name} version"] = _version(distillation, f"students/{name}")
        found[f"evaluation/{name}"] = _version(distillation, f"evaluations/{name}")
    return found


def differences(history: Mapping[str, Any], clean: Mapping[str, Any]) -> list[str]:
    """What is not equal, a line each."""
    return [
        f"{name}: {history.get(name)} after the history, {clean.get(name)} in a clean run"
        for name in sorted({*history, *clean})
        if history.get(name) != clean.get(name)
    ]


def _version(distillation: Distillation, asset: str) -> str | None:
    current = read_current(distillation.files.asset(asset))
    return current.version if current is not None else None


def _rows(path: Path, without: Sequence[str] = ()) -> list[dict[str, Any]]:
    return pl.read_parquet(path).drop(*without).to_dicts()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sequences(distillation: Distillation, partition: str) -> list[Any]:
    """What is captured of each completion, wherever it lies; its numbers follow from that, up to rounding."""
    assert needs_logits(distillation)
    identity = capture_identity(distillation)
    index = read_logits_index(distillation, partition)
    folder = shards_folder(distillation.files.root, identity)
    found = []
    for entry in index.frame.to_dicts():
        shard, row = entry.pop("shard"), entry.pop("row")
        [sequence] = read_sequences(folder / shard, identity, [row])
        assert (sequence.request_key, sequence.ids_hash) == (entry["request_key"], entry["ids_hash"])
        found.append(entry | {"tokens": sequence.tokens})
    return found
