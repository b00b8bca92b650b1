"""Reads a source into distinct rows known by their hash; only rows that were not rendered before keep their text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from distill_dagster.project import Distillation
from distill_dagster.prompts.partitions import ALL
from distill_dagster.prompts.rows import BATCH_ROWS, BadRow, SourceBatch
from distill_dagster.prompts.sources import read_source
from distill_dagster.prompts.splits import sha256_hex
from distill_dagster.prompts.store import StoredPartition
from distill_dagster.spill import Spill

# Rows and characters looked up together: few enough to hold, many enough that a look-up pays.
CHUNK_ROWS = 250_000
CHUNK_CHARS = 128_000_000
_UNKNOWN_SCHEMA = {"order": pl.UInt32, "where": pl.String, "row_hash": pl.String, "row": pl.String}
KNOWN_SCHEMA = {"row_hash": pl.String, "prompt_id": pl.String, "partition": pl.String}


class KnownRows:
    """Row hashes that are sorted once; looking others up among them costs the same however often it is done."""

    def __init__(self, row_hashes: pl.Series) -> None:
        """Args:
        row_hashes: each once.
        """
        short = row_hashes.hash().to_numpy()
        order = np.argsort(short)
        self._short, self._full = short[order], row_hashes.gather(order)

    def are_in(self, row_hashes: pl.Series) -> pl.Series:
        """Whether each is known."""
        if not len(self._short):
            return pl.repeat(False, len(row_hashes), dtype=pl.Boolean, eager=True)
        short = row_hashes.hash().to_numpy()
        places = np.searchsorted(self._short, short).clip(max=len(self._short) - 1)
        found = pl.Series(self._short[places] == short)
        is_same = self._full.gather(places) == row_hashes
        collides = found & ~is_same  # two in 2⁶⁴ share a short hash
        if collides.any():
            is_same = is_same | (collides & row_hashes.is_in(self._full.implode()))
        return is_same


@dataclass(frozen=True)
class SourceRows:
    """The distinct rows of a source.

    Attributes:
        frame: row_hash; where, the place of its first occurrence; order in the source; copies, how often it occurs.
        columns: names of all columns.
        bad: the rows that could not be read.
    """

    frame: pl.DataFrame
    columns: frozenset[str]
    bad: list[BadRow]
    _unknown: Spill
    _chunks: int
    _has_copies: bool

    def unknown(self) -> Iterator[pl.DataFrame]:
        """where, row_hash and row (str: canonical JSON) of the distinct rows that are not known, in their order."""
        for number in range(self._chunks):
            rows = self._unknown.of(str(number))
            if self._has_copies:
                rows = rows.join(self.frame.select("order"), on="order", how="semi", maintain_order="left")
            yield from rows.drop("order").iter_slices(BATCH_ROWS)


def known_rows(stored: Mapping[str, StoredPartition], render_key: str) -> pl.DataFrame:
    """KNOWN columns of all current prompts that were rendered under a key; they need no rendering."""
    paths = [one.path for one in stored.values() if one.render_key == render_key]
    if not paths:
        return pl.DataFrame(schema=KNOWN_SCHEMA)
    known = pl.scan_parquet(paths, cache=False).select(list(KNOWN_SCHEMA)).collect()
    return known if known["row_hash"].n_unique() == known.height else known.unique("row_hash", keep="any")


def read_rows(distillation: Distillation, known: pl.Series) -> SourceRows:
    """Reads the declared source.

    Args:
        distillation: the declaration and its places.
        known: row hashes of the prompts that are rendered already, each once.

    Raises:
        SourceError: the source as a whole cannot be read.
    """
    spec = distillation.spec.prompts
    columns: set[str] = set()
    bad: list[BadRow] = []
    everywhere = ALL if spec.partition is None else None
    look, unknown = KnownRows(known), Spill(_UNKNOWN_SCHEMA)
    frames = [pl.DataFrame(schema=_UNKNOWN_SCHEMA).drop("row")]
    read = 0
    for number, chunk in enumerate(_chunks(read_source(spec, distillation.folder, distillation.project.root))):
        for batch in chunk:
            columns |= batch.columns
            bad += [row.in_partition(everywhere) for row in batch.bad]
        rows = _hashed(pl.concat(batch.frame for batch in chunk), look).with_row_index("order", read)
        read += rows.height
        unknown.add({str(number): rows.filter(pl.col("row").is_not_null())})
        frames.append(rows.select(frames[0].columns))
    every = pl.concat(frames)
    distinct = _distinct(every)
    return SourceRows(
        distinct, frozenset(columns), bad, unknown, len(frames) - 1, _has_copies=distinct.height < every.height
    )


def _chunks(batches: Iterator[SourceBatch]) -> Iterator[list[SourceBatch]]:
    chunk: list[SourceBatch] = []
    rows = chars = 0
    for batch in batches:
        chunk.append(batch)
        rows += batch.frame.height
        chars += int(batch.frame["row"].str.len_bytes().sum())
        if rows >= CHUNK_ROWS or chars >= CHUNK_CHARS:
            yield chunk
            chunk, rows, chars = [], 0, 0
    if chunk:
        yield chunk


def _hashed(rows: pl.DataFrame, known: KnownRows) -> pl.DataFrame:
    """where, row_hash, and row where it is not known."""
    hashed = rows.with_columns(row_hash=sha256_hex(pl.col("row")))
    return hashed.with_columns(row=pl.when(known.are_in(hashed["row_hash"])).then(None).otherwise("row"))


def _distinct(rows: pl.DataFrame) -> pl.DataFrame:
    if rows["row_hash"].n_unique() == rows.height:
        return rows.with_columns(copies=pl.lit(1, dtype=pl.UInt32))
    return rows.group_by("row_hash", maintain_order=True).agg(
        pl.col("where", "order").first(), pl.len().alias("copies")
    )
