"""Runs the scripts of docs/recompute.md as a reader would, and lists the numbers that they have to come to."""

import csv
import io
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill_dagster.evaluation.model import EvaluationReport, HeldOut, Measure
from distill_dagster.evaluation.statistics import Estimate

DOCS = Path(__file__).parents[2] / "docs" / "recompute.md"
COLUMNS = {"forward_kl": "kl_sum", "top1": "top1_hits", "perplexity": "nll_sum"}
AGAINST = {"quality": "_vs_reference", "fidelity": "_vs_teacher", "health": ""}


def scripts() -> dict[str, str]:
    """The documented scripts by the name in their first line."""
    blocks = re.findall(r"^```python\n# (\w+)\.py[^\n]*\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.M | re.S)
    return dict(blocks)


def run(script: str, *files: Path) -> list[list[str]]:
    """The fields of each line that a script prints; it cannot import this package."""
    command = [sys.executable, "-I", "-c", f"import sys; sys.modules['distill_dagster'] = None\n{script}"]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, check=True, cwd="/")
    return [line for line in csv.reader(io.StringIO(done.stdout), delimiter=",") if line]


def table(lines: list[list[str]], split: str = "test") -> dict[tuple[str, ...], dict[str, float]]:
    header, *rows = lines
    return {tuple(row[1:4]): dict(zip(header[4:], map(float, row[4:]), strict=True)) for row in rows if row[0] == split}


def said(
    report: EvaluationReport | HeldOut, names: Sequence[str] = ("quality", "fidelity", "health")
) -> Iterator[tuple[str, Measure, str, str, Estimate]]:
    """Every estimate and difference of the tables: its column, measure, model, the other model, and itself."""
    for name in names:
        for measure in getattr(report, name):
            column = COLUMNS.get(measure.name, f"{measure.name}{AGAINST[name.removesuffix('_change')]}")
            for system, estimate in measure.systems.items():
                yield column, measure, system, system, estimate
            for pair in measure.comparisons:
                yield column, measure, pair.left, pair.right, pair.difference
