"""Writes a partition's answers as Parquet and JSON lines, a chunk at a time, under the version of their content."""

import os
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.datatypes import DataType, DataTypeClass

from distill_dagster.lineage.hashing import VersionHash
from distill_dagster.storage import publish_file
from distill_dagster.teachers.answers.assessment import ASSESSED_SCHEMA
from distill_dagster.teachers.store.responses import FETCHED

OUTPUTS_SCHEMA: dict[str, DataType | DataTypeClass] = {
    "prompt_id": pl.String,
    "sample": pl.Int32,
    **FETCHED,
    **ASSESSED_SCHEMA,
}
# Cost and usage are facts about one call, not about the answer.
VERSION_COLUMNS = (
    "prompt_id",
    "sample",
    "request_key",
    "status",
    "stop_reason",
    "completion",
    "thinking",
    "token_ids",
    *ASSESSED_SCHEMA,
)
SUMS = ("input_tokens", "output_tokens", "cost_microusd", "cache_write_tokens", "cache_read_tokens")


class OutputsFile:
    """One partition's answers on their way to disk."""

    def __init__(self, folder: Path) -> None:
        """Args:
        folder: the partition's; files appear in it whole or not at all.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._aside = folder / f".{uuid.uuid4().hex}.tmp"
        self._lines = self._aside.with_suffix(".jsonl.tmp")
        self._hash = VersionHash(VERSION_COLUMNS)
        self._counts: Counter[str] = Counter()
        self._arrow = _to_arrow(pl.DataFrame(schema=OUTPUTS_SCHEMA)).schema

    def write(self, chunks: Iterable[pl.DataFrame]) -> tuple[str, dict[str, Any]]:
        """Writes all chunks (OUTPUTS columns and more), in order of prompt_id and sample.

        Returns:
            The version, and what to say of it: rows, how they ended, tokens, micro-dollars.
        """
        try:
            with (
                pq.ParquetWriter(self._aside, self._arrow, compression="zstd") as parquet,
                self._lines.open("wb") as lines,
            ):
                for chunk in chunks:
                    rows = chunk.select(pl.col(name).cast(kind) for name, kind in OUTPUTS_SCHEMA.items())
                    self._hash.add(rows)
                    self._count(rows)
                    parquet.write_table(_to_arrow(rows))
                    rows.write_ndjson(lines)
            version = self._hash.version
            if not (self._folder / f"{version}.parquet").exists():  # equal content is never written again
                publish_file(self._lines, self._folder / f"{version}.jsonl")
                publish_file(self._aside, self._folder / f"{version}.parquet")
        finally:
            for left in (self._aside, self._lines):
                if left.exists():
                    os.unlink(left)
        return version, dict(self._counts)

    def _count(self, rows: pl.DataFrame) -> None:
        self._counts["rows"] += len(rows)
        for name in SUMS:
            self._counts[name] += int(rows[name].sum())
        self._counts.update(_told(rows["status"]))
        self._counts.update(_told(rows["problem"].drop_nulls()))
        refused = rows.filter(pl.col("status") == "refused")["detail"].fill_null("uncategorised")
        self._counts.update({f"refused: {category}": count for category, count in _told(refused).items()})


def _told(values: pl.Series) -> dict[str, int]:
    return dict(values.value_counts().iter_rows())


def _to_arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
