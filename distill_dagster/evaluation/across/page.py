"""Renders a comparison of two evaluations as one self-contained page: no script, no request, every text escaped."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import polars as pl
from jinja2 import Template
from pydantic import JsonValue

from distill_dagster.evaluation import formatting
from distill_dagster.evaluation.across.findings import measure_label, not_compared_text
from distill_dagster.evaluation.across.model import ComparedTable, EvaluationComparison, ScoredRow
from distill_dagster.evaluation.across.pairing import TEACHER_ANSWER, Paired
from distill_dagster.evaluation.page import page_environment, shown_text, without_controls
from distill_dagster.evaluation.predictions import KEY

TEMPLATE = "compare.html.j2"
TABLE_TITLES: dict[ComparedTable, str] = {
    "quality": "Quality, against human references where a metric needs one",
    "fidelity": "Fidelity, against the teacher",
    "health": "Health of the texts",
    "held_out_quality": "Held-out partitions: quality",
    "held_out_fidelity": "Held-out partitions: fidelity",
    "judge": "Judged in pairs",
    "harness": "Tasks of lm-evaluation-harness",
}


@dataclass(frozen=True)
class Answer:
    """One text of a row; None where there is none."""

    css: str
    label: str
    text: str | None
    note: str


@dataclass(frozen=True)
class Example:
    """A prompt, both students' answers and what they are compared with."""

    prompt_id: str
    partition: str
    prompt: str
    answers: list[Answer]


def render_comparison(comparison: EvaluationComparison, paired: Paired) -> str:
    """The page.

    Args:
        comparison: what it shows.
        paired: the rows behind it, for the texts.
    """
    chosen = comparison.examples
    texts = _Texts(comparison, paired)
    source = _template().render(
        comparison=comparison,
        tables=[
            (title, [one for one in comparison.measures if one.table == name]) for name, title in TABLE_TITLES.items()
        ],
        regressions=texts.examples(chosen.regressions),
        gains=texts.examples(chosen.gains),
        others=texts.examples(chosen.others),
        scored_by=texts.scored_by,
        tables_shown={one.table for one in comparison.measures},
    )
    return without_controls(source)


def fact_text(value: JsonValue) -> str:
    """A fact's value as text: a word as it is, `–` for what is not there, anything else as JSON."""
    if value is None:
        return formatting.UNDEFINED
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@lru_cache(maxsize=1)
def _template() -> Template:
    return page_environment(fact=fact_text, not_compared_text=not_compared_text).get_template(TEMPLATE)


class _Texts:
    """Looks up the texts of chosen rows."""

    def __init__(self, comparison: EvaluationComparison, paired: Paired) -> None:
        self._names = comparison.a.name, comparison.b.name
        self._paired = paired
        scorer = comparison.examples.table, comparison.examples.measure
        found = (one for one in comparison.measures if (one.table, one.name) == scorer)
        self.scored_by = next(map(measure_label, found), None)

    def examples(self, rows: Iterable[ScoredRow]) -> list[Example]:
        return [self._example(row) for row in rows]

    def _example(self, row: ScoredRow) -> Example:
        at = (pl.col(KEY[0]) == row.prompt_id) & (pl.col(KEY[1]) == row.sample)
        a, b = (side.row(by_predicate=at, named=True) for side in (self._paired.a, self._paired.b))
        answers = [
            Answer("companion", self._names[0], _shown(a["prediction"]), self._note(a, row.a)),
            Answer("student", self._names[1], _shown(b["prediction"]), self._note(b, row.b)),
            *_both(a, b, TEACHER_ANSWER, "teacher", "Teacher"),
            *_both(a, b, "reference", "reference", "Human reference"),
        ]
        return Example(row.prompt_id, b["partition"], shown_text(b["text"]), answers)

    def _note(self, record: dict[str, Any], score: float | None) -> str:
        parts = [] if score is None else [f"{formatting.number(score, 3)} on {self.scored_by}"]
        return " · ".join([*parts, *(["no stop"] if record["stopped"] is False else [])])


def _both(a: dict[str, Any], b: dict[str, Any], column: str, css: str, label: str) -> list[Answer]:
    """What answers are compared with: one text where it is the same on both sides, else both."""
    if a[column] == b[column]:
        return [] if b[column] is None else [Answer(css, label, _shown(b[column]), "")]
    return [Answer(css, label, _shown(record[column]), f"in {side}") for record, side in ((a, "A"), (b, "B"))]


def _shown(text: str | None) -> str | None:
    return None if text is None else shown_text(text)
