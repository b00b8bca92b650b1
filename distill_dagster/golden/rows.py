"""What golden rows have beside their prompt: the slice, and whether a person has checked them."""

from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.errors import SourceError
from distill_dagster.prompts.rows import parse_row, text_of
from distill_dagster.prompts.sources import read_source
from distill_dagster.prompts.splits import sha256_hex
from distill_dagster.spec.golden import GoldenSetSpec
from distill_dagster.spec.prompts import PromptsSpec

FLAGS = {"slice": pl.String, "verified": pl.Boolean}
OVERALL = "all rows"
"""What a verdict calls the rows of all slices together; no slice may be called so."""
_SHOWN = 10
_SAID = {"true": True, "false": False}


def read_flags(prompts: PromptsSpec, golden: GoldenSetSpec, folder: Path, project_root: Path) -> pl.DataFrame:
    """row_hash, slice (null where none is declared) and verified of every distinct row.

    Args:
        prompts: the block that reads the golden rows.
        golden: as declared.
        folder: where relative patterns and modules start.
        project_root: files outside it are refused.

    Raises:
        SourceError: the source cannot be read, a row has no reference, no slice, or no true or false flag, or no row
            is verified.
    """
    records: list[tuple[str, str | None, bool]] = []
    problems: list[str] = []
    for batch in read_source(prompts, folder, project_root):
        problems += [str(bad) for bad in batch.bad]
        rows = batch.frame.with_columns(row_hash=sha256_hex(pl.col("row")))
        for where, text, row_hash in rows.select("where", "row", "row_hash").iter_rows():
            row = parse_row(text)
            wrong = _problem(row, golden)
            if wrong is not None:
                problems.append(f"{where}: {wrong}")
            else:
                slice_ = text_of(row[golden.slice]) if golden.slice is not None else None
                records.append((row_hash, slice_, _flag(row.get(golden.verified)) is True))
    if problems:
        more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise SourceError("\n".join([*problems[:_SHOWN], *more]))
    if records and not any(verified for *_, verified in records):
        raise SourceError(
            f"golden_set: no row is verified; set {golden.verified!r} to true in those that a person has checked"
        )
    frame = pl.DataFrame(records, schema={"row_hash": pl.String, **FLAGS}, orient="row")
    return frame.unique("row_hash", keep="first", maintain_order=True)


def _problem(row: dict[str, Any], golden: GoldenSetSpec) -> str | None:
    """What is wrong with a row, and what to write instead."""
    if not _is_filled(row.get(golden.reference)):
        return (
            f"no reference in column {golden.reference!r}; write the right answer, or name it in golden_set.reference"
        )
    if _flag(row.get(golden.verified)) is None:
        return f"column {golden.verified!r} must be true or false (seen: {row.get(golden.verified)!r})"
    if golden.slice is not None and not _is_filled(row.get(golden.slice)):
        return f"no slice in column {golden.slice!r}; give every row one"
    if golden.slice is not None and text_of(row[golden.slice]) == OVERALL:
        return f"the slice in column {golden.slice!r} is {OVERALL!r}, as all slices together are called; rename it"
    return None


def _flag(value: Any) -> bool | None:
    """True or false, from a boolean or its name (all that CSV can hold); None for anything else."""
    return value if isinstance(value, bool) else _SAID.get(str(value).strip().lower())


def _is_filled(value: Any) -> bool:
    return value is not None and bool(text_of(value).strip())
