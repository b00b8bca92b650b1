"""`distill compare`: students and versions across time, from what is stored."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_dagster.evaluation.across.compare import compare_evaluations
from distill_dagster.evaluation.across.findings import (
    difference_text,
    measure_label,
    metric_against,
    not_compared_text,
)
from distill_dagster.evaluation.across.model import ComparedMeasure, EvaluationComparison, Side, Timeline, TimelineEntry
from distill_dagster.evaluation.across.page import fact_text, render_comparison
from distill_dagster.evaluation.across.stored import SHORT, find_evaluation
from distill_dagster.evaluation.formatting import count, interval, quantity, shortened
from distill_dagster.project import Distillation
from distill_dagster.storage import write_file

_COLOURS = {"better": "green", "worse": "red", "undecided": "yellow", "equal": "dim"}
_SHOWN_FACT = 40


def compare_pair(distillation: Distillation, a: str, b: str, out: Path | None) -> EvaluationComparison:
    """Compares what `a` and `b` name (`student`, `student@version`), and writes the page to `out`.

    Raises:
        EvaluationError: one of them is not stored, or they have no prompt in common.
    """
    left, right = find_evaluation(distillation, a), find_evaluation(distillation, b)
    comparison, paired = compare_evaluations(distillation, left, right)
    if out is not None:
        page = render_comparison(comparison, paired)
        write_file(out, lambda aside: aside.write_text(page, encoding="utf-8"))
    return comparison


def print_comparison(comparison: EvaluationComparison, out: Path | None, *, as_json: bool) -> None:
    """Prints tables and the page's path, or JSON; no prompt and no answer in either.

    The JSON is an `EvaluationComparison` and "page", all of it a contract: "format": 1, "distillation", "a" and "b"
    (name, student, version, current, written_at, dataset_version, student_version, base_version, teacher_version,
    spec_hash, code_version, test_rows, report), "findings", "changes" (what, a, b), "rows" (both, groups, only_a,
    only_b, other_text, other_reference, other_teacher_answer, changed_answers), "held_out_rows" (the same of held-out
    partitions, or null), "measures" (table, name, label, description, unit, higher_is_better, against, verdict, and the
    estimates a, b and difference, which is b - a: value, low, high, n, n_clusters, method, confidence; table is
    quality, fidelity, health, held_out_quality, held_out_fidelity, judge or harness), "not_compared" (table, name,
    why), "examples" (measure, table, and regressions, gains and others: prompt_id, sample, a, b), "confidence", "seed",
    "page" (a path or null).
    """
    console = Console(highlight=False)
    if as_json:
        content = comparison.model_dump(mode="json") | {"page": None if out is None else str(out)}
        console.out(json.dumps(content, indent=2, ensure_ascii=False))
        return
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        console.print(Text(f"{letter}  {_side_line(side)}"), soft_wrap=True)
    console.print()
    console.print(_measures_table(comparison))
    for left_out in comparison.not_compared:
        console.print(Text(f"not compared: {not_compared_text(left_out)}", style="dim"), soft_wrap=True)
    console.print()
    for sentence in _row_sentences(comparison):
        console.print(Text(sentence), soft_wrap=True)
    if comparison.changes:
        console.print()
        console.print(_changes_table(comparison))
    if out is not None:
        console.print(Text(f"\n{out}"), soft_wrap=True)


def print_timeline(found: Timeline, *, as_json: bool) -> None:
    """Prints a table, or JSON.

    The JSON is a `Timeline`: "format": 1, "distillation", "evaluations": the fields of a side of a comparison, and
    metric, label, against (reference or teacher) and estimate (value, low, high, n, n_clusters, method, confidence).
    """
    console = Console(highlight=False)
    if as_json:
        console.out(json.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False))
        return
    table = Table("written", "evaluation", "student", "dataset", box=None, header_style="bold", pad_edge=False)
    for heading in ("student’s main metric", "rows"):
        table.add_column(heading, justify="right")
    for one in found.evaluations:
        table.add_row(*_timeline_cells(one))
    console.print(table)
    console.print(
        Text(f"\nEach on its own rows; on common rows: distill compare {found.distillation} A B"), soft_wrap=True
    )


def _timeline_cells(one: TimelineEntry) -> tuple[Text, ...]:
    estimate = one.estimate
    measured = f"{quantity(estimate.value, 'score')} {interval(estimate, 'score')}"
    return (
        _two_lines(f"{one.written_at:%Y-%m-%d}", f"{one.written_at:%H:%M} UTC"),
        _two_lines(one.name, "current" if one.current else ""),
        Text(one.student_version[:SHORT]),
        Text(one.dataset_version[:SHORT]),
        _two_lines(measured, metric_against(one.label, one.against)),
        Text(count(estimate.n)),
    )


def _two_lines(first: str, second: str) -> Text:
    return Text(first).append(f"\n{second}", style="dim")


def _side_line(side: Side) -> str:
    current = ", current" if side.current else ""
    return (
        f"{side.name}{current}: student {side.student_version[:SHORT]}, dataset {side.dataset_version[:SHORT]}, "
        f"{count(side.test_rows)} test rows, written {side.written_at:%Y-%m-%d %H:%M} UTC"
    )


def _measures_table(comparison: EvaluationComparison) -> Table:
    table = Table("measure", box=None, header_style="bold", pad_edge=False)
    for heading in ("A", "B", "B − A", "n/groups"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("B is")
    for measure in comparison.measures:
        table.add_row(*_measure_cells(measure))
    return table


def _measure_cells(measure: ComparedMeasure) -> tuple[Text, ...]:
    verdict = measure.verdict or ""
    difference = measure.difference
    return (
        Text(measure_label(measure)),
        Text(quantity(measure.a.value, measure.unit)),
        Text(quantity(measure.b.value, measure.unit)),
        Text(difference_text(measure)),
        Text(f"{count(difference.n)}/{count(difference.n_clusters)}"),
        Text(verdict, style=_COLOURS.get(verdict, "")),
    )


def _row_sentences(comparison: EvaluationComparison) -> list[str]:
    rows = comparison.rows
    told = [
        f"{count(rows.both)} rows have the same prompt in both; {count(rows.changed_answers)} of their answers changed."
    ]
    left_out = {
        "only in A": rows.only_a,
        "only in B": rows.only_b,
        "with another prompt under the same id": rows.other_text,
    }
    if any(left_out.values()):
        told.append(f"Not compared: {', '.join(f'{count(n)} {what}' for what, n in left_out.items() if n)}.")
    if (away := comparison.held_out_rows) is not None:
        told.append(
            f"{count(away.both)} held-out rows have the same prompt in both; "
            f"{count(away.changed_answers)} of their answers changed."
        )
    partly = {"reference": rows.other_reference, "answer of the teacher": rows.other_teacher_answer}
    told += [
        f"{count(n)} rows have another {what}: left out of what compares with it." for what, n in partly.items() if n
    ]
    return told


def _changes_table(comparison: EvaluationComparison) -> Table:
    table = Table("changed", "A", "B", box=None, header_style="bold", pad_edge=False)
    for change in comparison.changes:
        cells = (shortened(fact_text(value), _SHOWN_FACT) for value in (change.a, change.b))
        table.add_row(Text(change.what), *map(Text, cells))
    return table
