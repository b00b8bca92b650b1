"""Compares a partition's rows in the source with its stored prompts, prompt by prompt."""

from dataclasses import dataclass

import polars as pl

from distill_dagster.prompts.placed import PlacedRows
from distill_dagster.prompts.store import VERSIONED

# What students and their measures read of a prompt; the teacher's conversation and the plain text are not of it.
STUDENT_COLUMNS = ("group_id", "split", "student_messages", "reference")


@dataclass(frozen=True)
class Changes:
    """A partition's prompts beside the stored ones, by prompt_id.

    Attributes:
        unchanged: how many are as they were.
        new: how many the stored version does not have.
        changed: ids of those whose content is another one.
        changed_for_students: of these, those that students read otherwise.
        removed: ids that the source has no more.
    """

    unchanged: int
    new: int
    changed: pl.Series
    changed_for_students: pl.Series
    removed: pl.Series

    @property
    def is_any(self) -> bool:
        """Whether the prompts get another version."""
        return bool(self.new or len(self.changed) or len(self.removed))


NO_IDS = pl.Series("prompt_id", [], dtype=pl.String)


def changes_of(placed: PlacedRows) -> Changes:
    """What is new, changed and removed in a partition; reads of its stored prompts only what is needed for that."""
    if placed.stored is None:
        return Changes(0, placed.rows, NO_IDS, NO_IDS, NO_IDS)
    if placed.are_stored:
        return Changes(placed.rows, 0, NO_IDS, NO_IDS, NO_IDS)
    before = pl.scan_parquet(placed.stored.path)
    left = before.select("prompt_id", "row_hash").collect()
    left = left.join(placed.known.to_frame("row_hash"), on="row_hash", how="anti")
    fresh = placed.fresh
    again = fresh.join(left, on="prompt_id", how="semi")
    changed, for_students = _compared(again, before)
    removed = left.join(again, on="prompt_id", how="anti")["prompt_id"]
    if placed.changes_sides:  # every prompt that is kept changes its split
        changed = for_students = placed.prompts().frame.join(before.select("prompt_id").collect(), on="prompt_id")[
            "prompt_id"
        ]
    new = len(fresh) - len(again)
    return Changes(placed.rows - new - len(changed), new, changed, for_students, removed)


def _compared(again: pl.DataFrame, before: pl.LazyFrame) -> tuple[pl.Series, pl.Series]:
    """Ids of prompts with other content than before, and of those whose content for students is another one."""
    if again.is_empty():
        return NO_IDS, NO_IDS
    ids = again["prompt_id"].implode()
    stored = before.select(VERSIONED).filter(pl.col("prompt_id").is_in(ids)).collect()
    both = again.select(VERSIONED).join(stored, on="prompt_id", suffix="_before")

    def differs(columns: tuple[str, ...]) -> pl.Expr:
        return pl.any_horizontal(
            pl.col(name).ne_missing(pl.col(f"{name}_before")) for name in columns if name != "prompt_id"
        )

    return both.filter(differs(VERSIONED))["prompt_id"], both.filter(differs(STUDENT_COLUMNS))["prompt_id"]
