"""The prompts stage: reads the source once and gives every partition its prompts, rendering changed rows only."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from distill_dagster.errors import SourceError
from distill_dagster.lineage.tombstones import is_forgotten
from distill_dagster.project import Distillation
from distill_dagster.prompts.identity import ID_HEX_CHARS
from distill_dagster.prompts.placed import Dealing, PlacedRows, place
from distill_dagster.prompts.reading import KNOWN_SCHEMA, SourceRows, known_rows, read_rows
from distill_dagster.prompts.rendering import Rendered, Renderer
from distill_dagster.prompts.rows import BadRow
from distill_dagster.prompts.splits import check_held_out, sha256_hex, with_splits
from distill_dagster.prompts.store import PROMPTS_SCHEMA, PartitionPrompts, stored_partitions
from distill_dagster.spill import Spill

_SHOWN_BAD_ROWS = 10
_RENDERED_SCHEMA = {
    "row_hash": pl.String,
    **dict.fromkeys(Rendered._fields, pl.String),
}


@dataclass(frozen=True)
class PromptBuild:
    """What one reading of the source gave.

    Args:
        placed: the rows of each partition without an error.
        failed: the others, each with its message (with `on_bad_row: fail`).
        bad: every row that is no prompt, skipped or not. One whose partition cannot be known fails all of them.
        rendered_rows: prompts rendered anew; the rest came from the current versions.
        render_key, settings: those under which they were rendered.
    """

    placed: Mapping[str, PlacedRows]
    failed: Mapping[str, str]
    bad: tuple[BadRow, ...]
    rendered_rows: int
    render_key: str
    settings: Mapping[str, Any]

    @property
    def partitions(self) -> Mapping[str, PartitionPrompts]:
        """The prompts of each partition without an error, put together anew whenever one is looked up."""
        return _Partitions(self.placed)

    @property
    def names(self) -> tuple[str, ...]:
        """All partitions of the source, failed ones included, sorted."""
        return tuple(sorted({*self.placed, *self.failed}))

    @property
    def is_complete(self) -> bool:
        """Whether `names` are certainly all: a failing row without a known partition may have one of its own."""
        return not (self.failed and any(row.partition is None for row in self.bad))


class _Partitions(Mapping[str, PartitionPrompts]):
    """One partition's prompts in memory at a time."""

    def __init__(self, placed: Mapping[str, PlacedRows]) -> None:
        self._placed = placed

    def __getitem__(self, name: str) -> PartitionPrompts:
        return self._placed[name].prompts()

    def __iter__(self) -> Iterator[str]:
        return iter(self._placed)

    def __len__(self) -> int:
        return len(self._placed)


def build_prompts(distillation: Distillation, reuse: bool = True) -> PromptBuild:
    """Reads the source of a distillation and renders its prompts.

    A bad row fails its partition, and every partition where its own cannot be known; with `on_bad_row: skip` it is
    listed instead. Rows equal in every column count once. A second row
    under the same id with other content is a bad row.

    Args:
        distillation: the declaration and its places.
        reuse: take rows from the current versions on disk where neither they nor the settings changed.

    Raises:
        SourceError: the source cannot be read, has no rows, or none of its rows can be placed in a partition.
        TemplateError: a template is wrong or names a column that the source has not.
        SpecError: a partition that is to be held out does not exist, or none is left to train on.
    """
    spec = distillation.spec
    renderer = Renderer(spec.prompts, spec.student_prompt, distillation.folder, distillation.project.root)
    stored = stored_partitions(distillation) if reuse else {}
    known = known_rows(stored, renderer.key)
    source = read_rows(distillation, known["row_hash"])
    if source.frame.is_empty() and not source.bad:
        raise SourceError(f"prompts.source.{spec.prompts.source.kind}: no rows in {spec.prompts.source.value!r}")
    if not source.frame.is_empty():
        renderer.check_columns(source.columns)
    fresh = _render_all(distillation, renderer, source)
    identified, forgotten = _without_forgotten(distillation, known.with_columns(text=pl.lit(None, dtype=pl.String)))
    identified = pl.concat(
        [
            identified.select(list(KNOWN_SCHEMA)).with_columns(is_fresh=False),
            fresh.identified.with_columns(is_fresh=True),
        ]
    )
    placed, clashing, left_out = _without_clashes(source.frame.join(identified, on="row_hash"))
    # Outside of rendering: a partition that is held out, or no longer, has the same prompts as before.
    dealing = Dealing(spec.prompts.split, tuple(spec.evaluation.held_out_partitions))
    sorted_in = place(placed, fresh.prompts, left_out, stored, dealing, renderer.key)
    build = _sort_out(sorted_in, [*source.bad, *fresh.bad, *clashing], distillation, renderer)
    forgotten += fresh.forgotten
    counted = {name: replace(found, forgotten=forgotten[name]) for name, found in build.placed.items()}
    build = replace(build, placed=counted, rendered_rows=int(placed["is_fresh"].sum()))
    if build.is_complete:
        check_held_out(dealing.held_out, build.names)
    return build


@dataclass
class _Fresh:
    """The prompts that were rendered anew.

    Attributes:
        prompts: PROMPTS columns, by partition.
        identified: KNOWN columns.
        bad: rows that are no prompts.
        forgotten: by partition, how many may not come in.
    """

    prompts: Spill
    identified: pl.DataFrame
    bad: list[BadRow]
    forgotten: Counter[str]


def _render_all(distillation: Distillation, renderer: Renderer, source: SourceRows) -> _Fresh:
    spec = distillation.spec
    frames = [pl.DataFrame(schema=KNOWN_SCHEMA)]
    fresh = _Fresh(Spill(PROMPTS_SCHEMA), frames[0], [], Counter())
    for rows in source.unknown():
        rendered, bad = _render(renderer, rows)
        fresh.bad += bad
        rendered, forgotten = _without_forgotten(distillation, rendered)
        fresh.forgotten += forgotten
        frames.append(rendered.select(list(KNOWN_SCHEMA)))
        prompts = with_splits(rendered, spec.prompts.split, spec.evaluation.held_out_partitions)
        parts = prompts.partition_by("partition", as_dict=True)
        fresh.prompts.add({str(name): part for (name,), part in parts.items()})
    fresh.identified = pl.concat(frames)
    return fresh


def _without_forgotten(distillation: Distillation, prompts: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
    """The prompts (KNOWN columns, text and any more) that may come in, and by partition how many may not.

    A stored prompt is told by its id and row: one that was forgotten is still stored where that was cut short.
    """
    gone = is_forgotten(distillation.project.home, distillation.name, prompts)
    if not gone.any():
        return prompts, Counter()
    counts = prompts.filter(gone)["partition"].value_counts()
    return prompts.filter(~gone), Counter(dict(counts.iter_rows()))


def _render(renderer: Renderer, rows: pl.DataFrame) -> tuple[pl.DataFrame, list[BadRow]]:
    """PROMPTS columns without `split`, and the rows that are no prompts."""
    records: list[tuple[str | None, ...]] = []
    bad: list[BadRow] = []
    for where, row_hash, row in rows.select("where", "row_hash", "row").iter_rows():
        result = renderer.render(row_hash, row)
        if isinstance(result, Rendered):
            records.append((row_hash, *result))
        else:
            bad.append(BadRow(where, result.reason, result.partition))
    frame = pl.DataFrame(records, schema=_RENDERED_SCHEMA, orient="row")
    group_id = sha256_hex(pl.col("group_text")).str.slice(0, ID_HEX_CHARS)
    return frame.with_columns(group_id=group_id).drop("group_text"), bad


def _without_clashes(placed: pl.DataFrame) -> tuple[pl.DataFrame, list[BadRow], pl.Series]:
    """Of several rows under one id, the first in the source stays; the others are bad rows that name both places.

    Returns:
        The rows that stay, the bad ones, and their row hashes.
    """
    if placed["prompt_id"].n_unique() == placed.height:
        return placed, [], placed["row_hash"].clear()
    placed = placed.sort("order").with_columns(first=pl.col("where").first().over("prompt_id"))
    clash = ~pl.col("prompt_id").is_first_distinct()
    bad = [
        BadRow(where, f"id {prompt_id!r} is also at {first}, with other content; ids must be unique", partition)
        for where, prompt_id, first, partition in placed.filter(clash)
        .select("where", "prompt_id", "first", "partition")
        .iter_rows()
    ]
    return placed.filter(~clash), bad, placed.filter(clash)["row_hash"]


def _sort_out(
    rows: Mapping[str, PlacedRows], bad: list[BadRow], distillation: Distillation, renderer: Renderer
) -> PromptBuild:
    """Gives each partition its rows, or the message it fails with."""
    by_partition: dict[str, list[BadRow]] = defaultdict(list)
    for row in bad:
        if row.partition is not None:
            by_partition[row.partition].append(row)
    failed: dict[str, str] = {}
    if distillation.spec.prompts.on_bad_row == "fail":
        failed = _failures({*rows, *by_partition}, by_partition, [row for row in bad if row.partition is None])
    elif not rows:
        raise SourceError(f"every row was skipped, so no prompt is left:\n{_complaint(bad)}")
    placed = {
        name: replace(found, skipped=tuple(by_partition.get(name, ())))
        for name, found in rows.items()
        if name not in failed
    }
    return PromptBuild(placed, failed, tuple(bad), 0, renderer.key, renderer.settings)


def _failures(names: set[str], placed: Mapping[str, list[BadRow]], unplaced: list[BadRow]) -> dict[str, str]:
    if not names:
        raise SourceError(_complaint(unplaced))
    return {name: _failure(placed.get(name, []), unplaced) for name in names if placed.get(name) or unplaced}


def _failure(own: list[BadRow], unplaced: list[BadRow]) -> str:
    parts = [_complaint(own)] if own else []
    if unplaced:
        parts.append(
            f"the partition of these rows cannot be known, so they fail every partition:\n{_complaint(unplaced)}"
        )
    return "\n".join([*parts, "mend the rows, or leave them out with `on_bad_row: skip`"])


def _complaint(rows: list[BadRow]) -> str:
    lines = [str(row) for row in rows]
    more = [f"… and {len(lines) - _SHOWN_BAD_ROWS} more"] if len(lines) > _SHOWN_BAD_ROWS else []
    return "\n".join(lines[:_SHOWN_BAD_ROWS] + more)
