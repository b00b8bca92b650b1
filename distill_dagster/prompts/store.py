"""Prompts on disk: one Parquet file a partition and version, found through `current.json`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from distill_dagster.errors import StorageError
from distill_dagster.lineage.hashing import canonical_json, frame_version
from distill_dagster.project import Distillation
from distill_dagster.prompts.rows import BadRow
from distill_dagster.storage import (
    Current,
    read_current,
    read_json,
    remove_current,
    write_current,
    write_file,
    write_json,
)

ASSET = "prompts"
# Counts of a partition's current prompts and of the version before, without their text.
PROFILE_FILE = "profile.json"
# Small enough that whoever streams a large partition holds little of it.
ROW_GROUP_ROWS = 16_384
PROMPTS_SCHEMA = {
    "prompt_id": pl.String,
    "group_id": pl.String,
    "split": pl.String,
    "partition": pl.String,
    "row_hash": pl.String,
    "messages": pl.String,
    "student_messages": pl.String,
    "text": pl.String,
    "reference": pl.String,
}
VERSIONED = ("prompt_id", "group_id", "split", "messages", "student_messages", "text", "reference")
_RENDER_KEY = "distill.render"


@dataclass(frozen=True)
class PartitionPrompts:
    """The prompts of one partition.

    Args:
        frame: PROMPTS columns, sorted by prompt_id.
        version: content hash of the rows: changes with an id, group, split, message or reference only.
        duplicate_rows: further rows of the source equal to one of these in every column.
        skipped: bad rows left out (with `on_bad_row: skip`).
        render_key: the settings under which the rows were rendered.
        forgotten: rows of the source that are no prompts because they were forgotten.
    """

    frame: pl.DataFrame
    version: str
    duplicate_rows: int
    skipped: tuple[BadRow, ...]
    render_key: str
    forgotten: int = 0

    @property
    def rows(self) -> int:
        """Number of prompts."""
        return self.frame.height


def write_prompts(distillation: Distillation, partition: str, prompts: PartitionPrompts) -> bool:
    """Stores a partition's prompts and points readers at them; True where that changed anything."""
    folder = distillation.files.asset(ASSET, partition)
    path = _file(folder, prompts.version)
    if not path.exists():
        metadata = {_RENDER_KEY: prompts.render_key}
        rows = prompts.frame
        write_file(path, lambda aside: rows.write_parquet(aside, metadata=metadata, row_group_size=ROW_GROUP_ROWS))
    return write_current(folder, Current(version=prompts.version))


def rewrite_without(path: Path, prompt_ids: Sequence[str]) -> str | None:
    """Writes a stored version's prompts but for some under the version that they then are, and removes the old file.

    The partition's profile goes, for its counts are also of those prompts.

    Returns:
        The new version; None where no prompt is left.
    """
    rows = pl.read_parquet(path).filter(~pl.col("prompt_id").is_in(list(prompt_ids)))
    version = None
    if not rows.is_empty():
        version = frame_version(rows, VERSIONED)
        metadata = {_RENDER_KEY: pl.read_parquet_metadata(path).get(_RENDER_KEY, "")}
        write_file(
            _file(path.parent, version),
            lambda aside: rows.write_parquet(aside, metadata=metadata, row_group_size=ROW_GROUP_ROWS),
        )
    path.unlink()
    path.with_name(PROFILE_FILE).unlink(missing_ok=True)
    return version


def read_prompts(distillation: Distillation, partition: str, version: str | None = None) -> pl.DataFrame:
    """The prompts of a partition: PROMPTS columns, sorted by prompt_id.

    Args:
        distillation: whose prompts.
        partition: the partition.
        version: default: the current one.

    Raises:
        StorageError: there are none, or their file is gone.
    """
    return pl.read_parquet(prompts_file(distillation, partition, version))


def prompts_file(distillation: Distillation, partition: str, version: str | None = None) -> Path:
    """The Parquet file of a partition's prompts; arguments and errors as for `read_prompts`."""
    version = version or prompts_version(distillation, partition)
    if version is None:
        raise StorageError(
            f"{distillation.name}: partition {partition!r} has no prompts yet; materialise `prompts` first"
        )
    path = _file(distillation.files.asset(ASSET, partition), version)
    if not path.is_file():
        raise StorageError(f"{path}: missing; materialise `prompts` again")
    return path


def prompts_version(distillation: Distillation, partition: str) -> str | None:
    """The current version of a partition's prompts, None where there is none."""
    current = read_current(distillation.files.asset(ASSET, partition))
    return current.version if current is not None else None


def remove_vanished(distillation: Distillation, names: Iterable[str]) -> list[str]:
    """Takes the partitions out of sight that the source no longer has; returns their names.

    Args:
        distillation: whose prompts.
        names: the partitions that the source has, failed ones included.
    """
    gone = sorted(set(distillation.files.partitions(ASSET)).difference(names))
    for partition in gone:
        remove_current(distillation.files.asset(ASSET, partition))
    return gone


def write_skipped(distillation: Distillation, bad: Iterable[BadRow]) -> Path:
    """Lists the bad rows of the last reading in `prompts/skipped.jsonl`: {where, partition, reason}, one a line."""
    path = distillation.files.asset(ASSET) / "skipped.jsonl"
    lines = [
        canonical_json({"where": row.where, "partition": row.partition, "reason": row.reason}) + "\n" for row in bad
    ]
    write_file(path, lambda aside: aside.write_text("".join(lines), encoding="utf-8"))
    return path


@dataclass(frozen=True)
class StoredPartition:
    """A partition's current prompts, as far as a file's footer tells.

    Attributes:
        version: the current one.
        path: its file.
        rows: number of prompts.
        render_key: the settings under which the rows were rendered.
    """

    version: str
    path: Path
    rows: int
    render_key: str


def stored_partitions(distillation: Distillation) -> dict[str, StoredPartition]:
    """All current partitions whose file is there; `read_prompts` is what complains of one that is gone."""
    stored = {}
    for partition in distillation.files.partitions(ASSET):
        folder = distillation.files.asset(ASSET, partition)
        current = read_current(folder)
        if current is None or not (path := _file(folder, current.version)).is_file():
            continue
        footer = pq.read_metadata(path)
        key = (footer.metadata or {}).get(_RENDER_KEY.encode(), b"").decode()
        stored[partition] = StoredPartition(current.version, path, footer.num_rows, key)
    return stored


def write_settings(distillation: Distillation, render_key: str, settings: Mapping[str, Any]) -> None:
    """Remembers what the settings behind a render key were, so that a plan can name those that changed."""
    path = _settings_file(distillation, render_key)
    if not path.exists():
        write_json(path, dict(settings))


def read_settings(distillation: Distillation, render_key: str) -> dict[str, Any] | None:
    """The settings behind a render key; None where they were never written."""
    path = _settings_file(distillation, render_key)
    return dict(read_json(path)) if path.is_file() else None


def _settings_file(distillation: Distillation, render_key: str) -> Path:
    return distillation.files.asset(ASSET) / ".settings" / f"{render_key[:32]}.json"


def _file(folder: Path, version: str) -> Path:
    return folder / f"{version}.parquet"
