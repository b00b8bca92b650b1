"""The rows that a source has for one partition, beside the prompts that are stored for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from distill_dagster.lineage.hashing import frame_version
from distill_dagster.prompts.rows import BadRow
from distill_dagster.prompts.splits import Split, with_splits
from distill_dagster.prompts.store import PROMPTS_SCHEMA, VERSIONED, PartitionPrompts, StoredPartition
from distill_dagster.spec.prompts import SplitSpec
from distill_dagster.spill import Spill


@dataclass(frozen=True)
class Dealing:
    """How groups are dealt to splits, and the partitions that are held out whole."""

    shares: SplitSpec
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class PlacedRows:
    """What one reading of the source found for a partition.

    Attributes:
        known: row hashes of the prompts to be taken from the stored version, where they were rendered alike.
        fresh_rows: number of prompts rendered anew.
        copies: rows of the source, equal ones included.
        stored: the current version; None where there is none.
        render_key: the settings under which the rows are rendered.
        skipped: bad rows left out.
        forgotten: rows of the source left out because they were forgotten.
    """

    partition: str
    known: pl.Series
    fresh_rows: int
    copies: int
    stored: StoredPartition | None
    dealing: Dealing
    render_key: str
    _rendered: Spill
    _left_out: pl.Series
    skipped: tuple[BadRow, ...] = ()
    forgotten: int = 0

    @property
    def rows(self) -> int:
        """Number of prompts."""
        return len(self.known) + self.fresh_rows

    @property
    def fresh(self) -> pl.DataFrame:
        """PROMPTS columns of the rows rendered anew, read whenever they are asked for."""
        rows = self._rendered.of(self.partition)
        if len(rows) > self.fresh_rows:
            rows = rows.filter(~pl.col("row_hash").is_in(self._left_out.implode()))
        return rows

    @property
    def are_stored(self) -> bool:
        """Whether the stored version is certainly of these very rows; where False it can still have the same prompts.

        The rows of one source row and one render key are the same prompts, so equal hashes are enough.
        """
        stored = self.stored
        is_same = stored is not None and not self.fresh_rows and len(self.known) == stored.rows
        return is_same and not self.changes_sides

    @cached_property
    def changes_sides(self) -> bool:
        """Whether the partition is held out now and its stored prompts are not, or the other way round."""
        if self.stored is None or not self.stored.rows:
            return False
        first = pl.read_parquet(self.stored.path, columns=["split"], n_rows=1)["split"][0]
        return bool(first == Split.HELD_OUT.value) != (self.partition in self.dealing.held_out)

    def kept(self, columns: list[str] | None = None) -> pl.DataFrame:
        """The stored prompts that are taken over, by prompt_id: PROMPTS columns, or some of them."""
        if self.stored is None or self.known.is_empty():
            return pl.DataFrame(schema=PROMPTS_SCHEMA).select(columns or list(PROMPTS_SCHEMA))
        wanted = None if columns is None else [*dict.fromkeys([*columns, "row_hash"])]
        frame = pl.read_parquet(self.stored.path, columns=wanted)
        if len(self.known) < self.stored.rows:
            frame = frame.join(self.known.to_frame("row_hash"), on="row_hash", how="semi", maintain_order="left")
        return frame.select(columns or list(PROMPTS_SCHEMA))

    def coming(self, columns: list[str]) -> pl.DataFrame:
        """Some PROMPTS columns of the partition's prompts as they will be, in any order."""
        if self.changes_sides:
            return self.prompts().frame.select(columns)
        return pl.concat([self.kept(columns), self.fresh.select(columns)])

    def prompts(self) -> PartitionPrompts:
        """The partition's prompts, put together from what is kept and what is fresh."""
        kept = self.kept()
        if self.are_stored:
            assert self.stored is not None
            version, rows = self.stored.version, kept
        else:
            if self.changes_sides:
                kept = with_splits(kept, self.dealing.shares, self.dealing.held_out).select(list(PROMPTS_SCHEMA))
            rows = pl.concat([kept, self.fresh]).sort("prompt_id")
            version = frame_version(rows, VERSIONED)
        return PartitionPrompts(rows, version, self.copies - self.rows, self.skipped, self.render_key, self.forgotten)


def place(
    rows: pl.DataFrame,
    rendered: Spill,
    left_out: pl.Series,
    stored: Mapping[str, StoredPartition],
    dealing: Dealing,
    render_key: str,
) -> dict[str, PlacedRows]:
    """Sorts rows by partition.

    Args:
        rows: partition, row_hash, copies, is_fresh (bool: rendered anew) of all rows of the source.
        rendered: PROMPTS columns of those rendered anew, by partition, and of some more.
        left_out: row hashes of these.
        stored: what is stored for each partition.
    """
    found = rows.select("partition", "row_hash", "copies", "is_fresh").partition_by("partition", as_dict=True)
    return {
        str(name): PlacedRows(
            partition=str(name),
            known=frame.filter(~pl.col("is_fresh"))["row_hash"],
            fresh_rows=int(frame["is_fresh"].sum()),
            copies=int(frame["copies"].sum()),
            stored=stored.get(str(name)),
            dealing=dealing,
            render_key=render_key,
            _rendered=rendered,
            _left_out=left_out,
        )
        for (name,), frame in sorted(found.items())
    }
