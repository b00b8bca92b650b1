"""Renders a comparison of designs as one self-contained page: no script, no request, every text escaped."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import polars as pl
from jinja2 import Template
from markupsafe import Markup

from distill_dagster.evaluation import formatting
from distill_dagster.evaluation.page import page_environment, shown_text, without_controls
from distill_dagster.metrics import metric_label
from distill_dagster.variants.formatting import interval, shown
from distill_dagster.variants.make import DECLARED
from distill_dagster.variants.model import DesignMeasure, VariantsReport
from distill_dagster.variants.plot import trade_off_plot

TEMPLATE = "variants.html.j2"


@dataclass(frozen=True)
class Answer:
    """One design's answer to a row; `text` is None where there is none, and `note` says how it ended."""

    design: str
    css: str
    text: str | None
    note: str


@dataclass(frozen=True)
class Example:
    """A row and every design's answer to it."""

    prompt_id: str
    partition: str
    prompt: str
    answers: list[Answer]
    reference: str | None


def render_html(report: VariantsReport, scored: pl.DataFrame) -> str:
    """The page of a report.

    Args:
        report: the comparison.
        scored: its rows (`score_answers`), for the texts shown side by side.
    """
    source = _template().render(
        report=report,
        plot=_plot(report),
        examples=[_example(scored, prompt_id, report) for prompt_id in report.examples],
        similarity={(pair.left, pair.right): pair.similarity for pair in report.agreement},
    )
    return without_controls(source)


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = page_environment(
        "distill_dagster.variants",
        DECLARED=DECLARED,
        shown=shown,
        interval=interval,
        verdict=_verdict,
        changed=_changed,
    )
    environment.filters["unbroken"] = _unbroken
    return environment.get_template(TEMPLATE)


def _plot(report: VariantsReport) -> Markup:
    """Quality, or without references length, against cost, or where calls are free against tokens."""
    measures = {measure.name: measure for measure in report.measures}
    cost = measures["cost"]
    is_free = not any(estimate.value for estimate in cost.designs.values())
    x = measures["output_tokens"] if is_free else cost
    quality = measures[report.primary_metric]
    is_measured = any(estimate.n for estimate in quality.designs.values())
    return trade_off_plot(x, quality if is_measured else measures["words"])


def _example(scored: pl.DataFrame, prompt_id: str, report: VariantsReport) -> Example:
    own = {row["design"]: row for row in scored.filter(pl.col("prompt_id") == prompt_id).iter_rows(named=True)}
    answers = [_answer(own[design.name], report) for design in report.designs if design.name in own]
    row = next(iter(own.values()))
    reference = row["reference"] and shown_text(row["reference"])
    return Example(prompt_id, row["partition"], shown_text(row["text"]), answers, reference)


def _answer(row: dict[str, Any], report: VariantsReport) -> Answer:
    parts = [] if row["status"] == "answered" else [str(row["status"])]
    parts += [str(row[name]).replace("_", " ") for name in ("detail", "problem") if row[name] is not None]
    score = row[report.primary_metric]
    if score is not None:
        parts.append(f"{metric_label(report.primary_metric)} {formatting.number(score, 3)}")
    tokens = row["output_tokens"]
    parts.append(f"{formatting.count(tokens)} token{'' if tokens == 1 else 's'}")
    text = None if row["answer"] is None else shown_text(row["answer"])
    css = "teacher" if row["design"] == DECLARED else "student"
    return Answer(row["design"], css, text, " · ".join(parts))


def _verdict(measure: DesignMeasure, variant: str) -> str:
    """`better`, `worse` or `undecided`; empty where neither direction is better, or all rows are equal."""
    difference = measure.differences[variant]
    is_equal = difference.value == 0 and difference.interval is None
    if measure.higher_is_better is None or difference.value is None or is_equal:
        return ""
    better = measure.verdict(variant)
    return "undecided" if better is None else "better" if better else "worse"


def _unbroken(text: str) -> str:
    """Keeps a minus sign and the dollar sign behind it on one line."""
    return text.replace("\N{MINUS SIGN}$", "\N{MINUS SIGN}\N{WORD JOINER}$")


def _changed(value: Any) -> str:
    """A changed key's value: text as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, indent=1) if value else "none"
