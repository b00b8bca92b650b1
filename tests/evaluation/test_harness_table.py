"""The table of harness tasks: its statistics, and how the report shows it."""

import polars as pl
import pytest

from distill_dagster.evaluation import report
from distill_dagster.evaluation.harness_files import SAMPLES_SCHEMA, HarnessOutcome
from distill_dagster.evaluation.harness_table import HarnessTable, harness_table
from distill_dagster.evaluation.statistics import Method, mean_estimate, paired_difference
from distill_dagster.jobs import HarnessResult, HarnessScore
from distill_dagster.spec.harness import HarnessSpec

SCORES = {
    "student": [1, 0, 1, 1, 0, 1, 1, 1],
    "base": [0, 0, 1, 0, 0, 1, 0, 0],
    "teacher": [1, 1, 1, 1, 0, 1, 1, 1],
}
SEED, CONFIDENCE = 17, 0.9


def outcome(scores: list[int], *, task: str = "quiz") -> HarnessOutcome:
    """Yes/no rows in shuffled order, and a metric that has no score a row."""
    facts: dict[str, object] = {"task": task, "task_version": "1.0", "shots": 5, "filter": "none", "n": len(scores)}
    accuracy = {"metric": "acc", "higher_is_better": True, "value": sum(scores) / len(scores), "is_mean": True}
    surprise = {"metric": "perplexity", "higher_is_better": False, "value": 12.5, "is_mean": False}
    rows = [(task, "acc", "none", at, float(score)) for at, score in reversed(list(enumerate(scores)))]
    rows += [(task, "perplexity", "none", at, -2.0) for at in range(len(scores))]
    samples = pl.DataFrame(rows, schema=SAMPLES_SCHEMA, orient="row")
    found = [HarnessScore.model_validate({**facts, "stderr": 0.1, **one}) for one in (accuracy, surprise)]
    return HarnessOutcome(HarnessResult(harness="9.9", scores=found), samples)


def make_table(outcomes: dict[str, HarnessOutcome]) -> HarnessTable:
    return harness_table(outcomes, HarnessSpec(tasks="tasks", limit=8), "student", CONFIDENCE, SEED)


@pytest.fixture
def table() -> HarnessTable:
    return make_table({system: outcome(scores) for system, scores in SCORES.items()})


def test_means_and_paired_differences_by_row(table: HarnessTable) -> None:
    [row, _] = table.rows
    own = list(range(8))

    for system, scores in SCORES.items():
        assert row.systems[system] == mean_estimate(scores, own, CONFIDENCE, SEED)
    for other in ("base", "teacher"):
        expected = paired_difference(SCORES["student"], SCORES[other], own, CONFIDENCE, SEED)
        assert row.comparison("student", other) == expected
    assert row.comparison("teacher", "base") is None
    assert row.stderr == dict.fromkeys(SCORES, 0.1)


def test_a_metric_that_is_no_mean_has_neither_interval_nor_difference(table: HarnessTable) -> None:
    [_, row] = table.rows

    assert row.differences == {}
    for estimate in row.systems.values():
        assert (estimate.value, estimate.interval, estimate.n) == (12.5, None, 8)
        assert estimate.method is Method.NO_ROW_SCORES


def test_pairs_are_rows_that_both_have() -> None:
    table = make_table({"student": outcome([1, 1, 0]), "base": outcome([0, 1, 0, 1, 1])})

    assert table.rows[0].differences["base"] == paired_difference([1, 1, 0], [0, 1, 0], [0, 1, 2], CONFIDENCE, SEED)


def test_a_hosted_teacher_is_no_column() -> None:
    table = make_table({system: outcome(SCORES[system]) for system in ("student", "base")})

    assert (table.systems, table.pairs) == (["student", "base"], [("student", "base")])


def test_the_table_reads_back(table: HarnessTable) -> None:
    assert HarnessTable.model_validate_json(table.model_dump_json()) == table


def page_of(table: HarnessTable) -> str:
    environment = report._template().environment
    source = '{% from "harness.html.j2" import harness_section %}{{ harness_section(table) }}'
    return environment.from_string(source).render(table=table)


def test_the_report_shows_every_number(table: HarnessTable) -> None:
    page = page_of(table)

    assert page.count("<tr>") == 1 + len(table.rows)
    for shown in ("quiz: acc", "version 1.0, 5-shot", "Student − base", "lm-evaluation-harness 9.9", "first 8 rows"):
        assert shown in page
    for shown in ("<b>0.750</b>", "<b>0.250</b>", "<b>0.875</b>", "<b>+0.500</b>", "<b>−0.125</b>", "<b>12.500</b>"):
        assert shown in page
    assert "n 8/8 · no interval" in page
    assert "no interval: the metric is no mean over rows" in page


def test_a_task_name_is_text() -> None:
    hostile = "<script>alert(1)</script>"
    page = page_of(make_table({"student": outcome([1, 0], task=hostile), "base": outcome([0, 0], task=hostile)}))

    assert "<script" not in page
    assert "&lt;script&gt;" in page
