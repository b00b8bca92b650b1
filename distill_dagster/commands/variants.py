"""`distill variants`: the declared prompt design and its variants on the same few rows, before all are paid for."""

import json
import sys
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_dagster.commands.terminal import shown_progress
from distill_dagster.errors import DistillError
from distill_dagster.evaluation.formatting import count
from distill_dagster.project import Distillation
from distill_dagster.teachers.money.dollars import dollars
from distill_dagster.variants.ask import Inquiry, ask, prepare
from distill_dagster.variants.compare import compare, score_answers
from distill_dagster.variants.formatting import interval, shown
from distill_dagster.variants.make import DECLARED
from distill_dagster.variants.model import DesignMeasure, VariantsReport
from distill_dagster.variants.write import Published, publish
from distill_dagster.worker_process import launch_subprocess


@dataclass(frozen=True)
class Comparison:
    """A comparison and where it lies."""

    report: VariantsReport
    published: Published


def compare_designs(distillation: Distillation, rows: int, *, yes: bool) -> Comparison | None:
    """Says what it will ask and for how much, asks it, and publishes the comparison.

    Args:
        rows: how many rows of the validation split, at most.
        yes: ask the teacher without asking the user first.

    Returns:
        None where the user said no.

    Raises:
        DistillError: there is nothing to compare, money is needed and nobody can say yes, or the teacher failed.
    """
    console = Console(stderr=True, highlight=False)
    inquiry = prepare(distillation, rows, launch_subprocess)
    _say(console, inquiry)
    if not yes and not _may_ask(inquiry):
        return None
    with shown_progress(console):
        answers = ask(inquiry)
    scored = score_answers(inquiry, answers)
    report = compare(inquiry, scored)
    return Comparison(report, publish(distillation, report, scored))


def print_comparison(comparison: Comparison, *, as_json: bool) -> None:
    """Prints the measures and the page's path, or JSON: {"report": path, "version": …} and report.json's content.

    report.json has "format": 1, "headlines", "rows", "groups", "available", "rows_with_reference", "primary_metric",
    "designs" (name, model, changes, statuses, problems, …), "measures" (name, unit, higher_is_better, and by design an
    estimate {value, low, high, n, n_clusters, method, confidence}; "differences" are variant - declared), "agreement",
    "examples" (prompt ids), "prompts" (versions by partition), "confidence", "seed".
    """
    console = Console(highlight=False)
    report, published = comparison.report, comparison.published
    if as_json:
        content = {"report": str(published.report_path), "version": published.version}
        console.out(json.dumps(content | report.model_dump(mode="json"), indent=2, ensure_ascii=False))
        return
    table = Table("", box=None, header_style="bold", pad_edge=False)
    for design in report.designs:
        table.add_column(design.name, justify="right")
    for measure in report.measures:
        label = f"{measure.label}, {measure.description}" if measure.unit == "usd" else measure.label
        table.add_row(label, *(_cell(measure, design.name) for design in report.designs))
    console.print(table)
    for sentence in report.headlines:
        console.print(Text(f"- {sentence}"))
    console.print(Text(f"\n{published.report_path}"), soft_wrap=True)


def _say(console: Console, inquiry: Inquiry) -> None:
    rows = f"{count(len(inquiry.rows))} of {count(inquiry.available)} validation rows"
    table = Table("design", "changes", "stored", "to ask", "at most", box=None, header_style="bold", pad_edge=False)
    for name in ("stored", "to ask", "at most"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for question in inquiry.questions:
        found, changes = question.found, ", ".join(question.design.changes)
        table.add_row(
            question.design.name,
            changes or "–",
            count(found.stored),
            count(found.missing),
            dollars(found.most_microusd),
        )
    console.print(Text(f"{inquiry.distillation.name}: {rows} × {len(inquiry.questions)} designs"))
    console.print(table)
    for partition, reason in inquiry.failed.items():
        console.print(Text(f"partition {partition} left out: {reason}", style="yellow"))
    console.print(Text(f"{count(inquiry.missing)} answers to ask for, at most {dollars(inquiry.most_microusd)}"))


def _may_ask(inquiry: Inquiry) -> bool:
    """Whether the user lets it ask; answers that cost nothing need no leave."""
    if not inquiry.most_microusd:
        return True
    if not _is_interactive():
        raise DistillError(
            f"{count(inquiry.missing)} answers would be asked for, at most {dollars(inquiry.most_microusd)}, "
            "and nobody is there to agree; pass --yes"
        )
    return click.confirm("Ask the teacher?", default=False, err=True)


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _cell(measure: DesignMeasure, design: str) -> Text:
    """The estimate, and below it a variant's difference with its interval."""
    text = Text(shown(measure.designs[design].value, measure.unit))
    if design == DECLARED or measure.differences[design].value is None:
        return text
    difference = measure.differences[design]
    text.append(f"\n{shown(difference.value, measure.unit, signed=True)}", style="dim")
    if difference.interval is not None:
        text.append(f" {interval(difference, measure.unit, signed=True)}", style="dim")
    return text
