"""`distill diff`: two versions of a dataset, or two evaluations."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_dagster.catalog.catalog import Catalog
from distill_dagster.catalog.dataset_diff import (
    SHORT,
    DatasetDiff,
    DiffSide,
    diff_datasets,
    diff_query,
    find_dataset,
)
from distill_dagster.commands.compare import compare_pair, print_comparison
from distill_dagster.commands.sql import write_result
from distill_dagster.errors import CatalogError
from distill_dagster.evaluation.formatting import count
from distill_dagster.project import Project

FORMAT = 1


def print_diff(project: Project, name: str, a: str, b: str, out: Path | None, *, as_json: bool) -> None:
    """Prints what differs, and writes the rows, or for evaluations the page, to `out`.

    The JSON of datasets is {"format": 1, "kind": "dataset", "distillation", "a", "b" (version, current, rows by split),
    "unchanged", "counts" (added, removed, moved, answer_changed, prompt_changed, reference_changed), "removed_why",
    "partitions", "examples" (by change: prompt_id, sample, split_a, split_b), "out"}; no text is in it. That of
    evaluations is the one of `distill compare`.

    Raises:
        DistillError: A or B is not stored, or one is a dataset and the other is not.
    """
    with Catalog(project, [name]) as catalog:
        left, right = (find_dataset(catalog, name, reference) for reference in (a, b))
        if (left is None) != (right is None):
            dataset, other = (a, b) if right is None else (b, a)
            raise CatalogError(f"{name}: {dataset} is a dataset and {other} is none; name two of a kind")
        if left is not None and right is not None:
            found = diff_datasets(catalog, name, left, right)
            if out is not None:
                write_result(catalog, f"{diff_query()} ORDER BY prompt_id, sample", out, (name, left, right))
            _print_datasets(found, out, as_json=as_json)
            return
    print_comparison(compare_pair(project.distillation(name), a, b, out), out, as_json=as_json)


def _print_datasets(found: DatasetDiff, out: Path | None, *, as_json: bool) -> None:
    console = Console(highlight=False)
    if as_json:
        content = {"format": FORMAT, "kind": "dataset", **asdict(found), "out": None if out is None else str(out)}
        console.out(json.dumps(content, indent=2, ensure_ascii=False))
        return
    for letter, side in (("A", found.a), ("B", found.b)):
        console.print(Text(f"{letter}  {_side(side)}"), soft_wrap=True)
    console.print()
    table = Table("in B", box=None, header_style="bold", pad_edge=False)
    table.add_column("rows", justify="right")
    table.add_column("for example")
    table.add_row("unchanged", count(found.unchanged), "")
    for change, rows in found.counts.items():
        shown = [f"{row.prompt_id} ({row.sample})" for row in found.examples.get(change, ())[:2]]
        table.add_row(change.replace("_", " "), count(rows), Text(", ".join(shown), style="dim"))
    console.print(table)
    if found.removed_why:
        reasons = ", ".join(f"{reason}: {count(rows)}" for reason, rows in found.removed_why.items())
        console.print(Text(f"\nremoved because: {reasons}"), soft_wrap=True)
    if found.partitions:
        console.print(Text(f"\nother prompts or answers in: {', '.join(found.partitions)}"), soft_wrap=True)
    if out is not None:
        console.print(Text(f"\n{out}"), soft_wrap=True)


def _side(side: DiffSide) -> str:
    rows = ", ".join(f"{count(number)} {split}" for split, number in side.rows.items())
    return f"dataset@{side.version[:SHORT]}{', current' if side.current else ''}: {rows}"
