"""The prompts stage: reads the source once and gives every partition its prompts, rendering changed rows only."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl

from distill_dagster.errors import SourceError
from distill_dagster.lineage.hashing import frame_version
from distill_dagster.lineage.tombstones import is_forgotten
from distill_dagster.project import Distillation
from distill_dagster.prompts.identity import ID_HEX_CHARS
from distill_dagster.prompts.partitions import ALL
from distill_dagster.prompts.rendering import Rendered, Renderer
from distill_dagster.prompts.rows import BATCH_ROWS, BATCH_SCHEMA, BadRow
from distill_dagster.prompts.sources import read_source
from distill_dagster.prompts.splits import check_held_out, sha256_hex, with_splits
from distill_dagster.prompts.store import PROMPTS_SCHEMA, VERSIONED, PartitionPrompts, rendered_prompts

_SHOWN_BAD_ROWS = 10
_RENDERED_SCHEMA = {
    "row_hash": pl.String,
    **dict.fromkeys(Rendered._fields, pl.String),
}


@dataclass(frozen=True)
class PromptBuild:
    """What one reading of the source gave.

    Args:
        partitions: those without an error.
        failed: the others, each with its message (with `on_bad_row: fail`).
        bad: every row that is no prompt, skipped or not. One whose partition cannot be known fails all of them.
        rendered_rows: prompts rendered anew; the rest came from the current versions.
    """

    partitions: Mapping[str, PartitionPrompts]
    failed: Mapping[str, str]
    bad: tuple[BadRow, ...]
    rendered_rows: int

    @property
    def names(self) -> tuple[str, ...]:
        """All partitions of the source, failed ones included, sorted."""
        return tuple(sorted({*self.partitions, *self.failed}))

    @property
    def is_complete(self) -> bool:
        """Whether `names` are certainly all: a failing row without a known partition may have one of its own."""
        return not (self.failed and any(row.partition is None for row in self.bad))


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
    rows, columns, bad = _read(distillation)
    if rows.is_empty() and not bad:
        raise SourceError(f"prompts.source.{spec.prompts.source.kind}: no rows in {spec.prompts.source.value!r}")
    if not rows.is_empty():
        renderer.check_columns(columns)
    known = rendered_prompts(distillation, renderer.key) if reuse else pl.DataFrame(schema=PROMPTS_SCHEMA)
    kept = known.join(rows.select("row_hash"), on="row_hash", how="semi")
    fresh, unrendered = _render(renderer, rows.join(kept.select("row_hash"), on="row_hash", how="anti"))
    rendered, forgotten = _without_forgotten(distillation, pl.concat([kept.select(fresh.columns), fresh]))
    # Outside of rendering: a partition that is held out, or no longer, has the same prompts as before.
    prompts = with_splits(rendered, spec.prompts.split, spec.evaluation.held_out_partitions).join(
        rows.select("row_hash", "where", "order", "copies"), on="row_hash", how="left"
    )
    prompts, clashing = _without_clashes(prompts)
    build = _sort_out(prompts, [*bad, *unrendered, *clashing], distillation, renderer.key, fresh.height)
    if build.is_complete:
        check_held_out(spec.evaluation.held_out_partitions, build.names)
    counted = {name: replace(made, forgotten=forgotten.get(name, 0)) for name, made in build.partitions.items()}
    return replace(build, partitions=counted)


def _without_forgotten(distillation: Distillation, rendered: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """The prompts that may come in, and by partition how many may not."""
    gone = is_forgotten(distillation.project.home, distillation.name, rendered)
    counts = rendered.filter(gone)["partition"].value_counts().sort("partition")
    return rendered.filter(~gone), dict(counts.iter_rows())


def _read(distillation: Distillation) -> tuple[pl.DataFrame, frozenset[str], list[BadRow]]:
    """Distinct rows (where, row, row_hash, order in the source, copies: how often each occurs), columns, bad rows."""
    spec = distillation.spec.prompts
    frames = [pl.DataFrame(schema=BATCH_SCHEMA)]
    columns: set[str] = set()
    bad: list[BadRow] = []
    everywhere = ALL if spec.partition is None else None
    for batch in read_source(spec, distillation.folder, distillation.project.root):
        frames.append(batch.frame)
        columns |= batch.columns
        bad += [row.in_partition(everywhere) for row in batch.bad]
    rows = pl.concat(frames).with_row_index("order").with_columns(row_hash=sha256_hex(pl.col("row")))
    distinct = rows.group_by("row_hash", maintain_order=True).agg(
        pl.col("where").first(), pl.col("row").first(), pl.col("order").first(), pl.len().alias("copies")
    )
    return distinct, frozenset(columns), bad


def _render(renderer: Renderer, rows: pl.DataFrame) -> tuple[pl.DataFrame, list[BadRow]]:
    """PROMPTS columns without `split`, and the rows that are no prompts."""
    columns = [name for name in PROMPTS_SCHEMA if name != "split"]
    frames = [pl.DataFrame(schema=PROMPTS_SCHEMA).select(columns)]
    bad: list[BadRow] = []
    for part in rows.iter_slices(BATCH_ROWS):
        records: list[tuple[str | None, ...]] = []
        for where, row_hash, row in part.select("where", "row_hash", "row").iter_rows():
            result = renderer.render(row_hash, row)
            if isinstance(result, Rendered):
                records.append((row_hash, *result))
            else:
                bad.append(BadRow(where, result.reason, result.partition))
        frame = pl.DataFrame(records, schema=_RENDERED_SCHEMA, orient="row")
        group_id = sha256_hex(pl.col("group_text")).str.slice(0, ID_HEX_CHARS)
        frames.append(frame.with_columns(group_id=group_id).select(columns))
    return pl.concat(frames), bad


def _without_clashes(prompts: pl.DataFrame) -> tuple[pl.DataFrame, list[BadRow]]:
    """Of several rows under one id, the first in the source stays; the others are bad rows that name both places."""
    prompts = prompts.sort("order").with_columns(first=pl.col("where").first().over("prompt_id"))
    clash = ~pl.col("prompt_id").is_first_distinct()
    bad = [
        BadRow(where, f"id {prompt_id!r} is also at {first}, with other content; ids must be unique", partition)
        for where, prompt_id, first, partition in prompts.filter(clash)
        .select("where", "prompt_id", "first", "partition")
        .iter_rows()
    ]
    return prompts.filter(~clash), bad


def _sort_out(
    prompts: pl.DataFrame, bad: list[BadRow], distillation: Distillation, render_key: str, rendered_rows: int
) -> PromptBuild:
    """Gives each partition its prompts, or the message it fails with."""
    placed: dict[str, list[BadRow]] = defaultdict(list)
    for row in bad:
        if row.partition is not None:
            placed[row.partition].append(row)
    frames = {str(key[0]): frame for key, frame in prompts.partition_by("partition", as_dict=True).items()}
    failed: dict[str, str] = {}
    if distillation.spec.prompts.on_bad_row == "fail":
        failed = _failures({*frames, *placed}, placed, [row for row in bad if row.partition is None])
    elif not frames:
        raise SourceError(f"every row was skipped, so no prompt is left:\n{_complaint(bad)}")
    partitions = {
        name: _partition(frame, tuple(placed.get(name, ())), render_key)
        for name, frame in frames.items()
        if name not in failed
    }
    return PromptBuild(partitions, failed, tuple(bad), rendered_rows)


def _failures(names: set[str], placed: Mapping[str, list[BadRow]], unplaced: list[BadRow]) -> dict[str, str]:
    if not names:
        raise SourceError(_complaint(unplaced))
    return {name: _failure(placed.get(name, []), unplaced) for name in names if placed.get(name) or unplaced}


def _partition(frame: pl.DataFrame, skipped: tuple[BadRow, ...], render_key: str) -> PartitionPrompts:
    rows = frame.select(list(PROMPTS_SCHEMA)).sort("prompt_id")
    duplicates = int(frame["copies"].sum()) - frame.height
    return PartitionPrompts(rows, frame_version(rows, VERSIONED), duplicates, skipped, render_key)


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
