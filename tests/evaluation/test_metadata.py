"""What Dagster shows of a report."""

import base64

import pytest

from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.metadata import metric_plot_markdown, metric_plot_png, summary_markdown
from distill_dagster.evaluation.model import EvaluationReport
from distill_dagster.evaluation.predictions import build_predictions
from distill_dagster.evaluation.score import evaluate


def report_of(inputs: EvaluationInputs) -> EvaluationReport:
    metrics = inputs.spec.evaluation.metrics
    return evaluate(inputs, build_predictions(inputs.test, inputs.generated, inputs.fidelity, metrics))


def test_the_summary_is_a_table_with_intervals_and_no_model_text(hostile: EvaluationInputs) -> None:
    summary = summary_markdown(report_of(hostile))

    table = [line for line in summary.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {7}
    assert "| Forward KL vs teacher | – |" in summary
    assert "<script>" not in summary


def test_other_students_have_their_columns(side_by_side: EvaluationInputs) -> None:
    header = next(line for line in summary_markdown(report_of(side_by_side)).splitlines() if line.startswith("|"))

    assert [cell.strip() for cell in header.strip("|").split("|")][1:-1] == [
        "teacher",
        "student",
        "soft",
        "on_references",
        "base",
        "student − base",
        "student − soft",
        "student − on_references",
    ]


def test_what_was_not_measured_has_no_row(hosted: EvaluationInputs) -> None:
    summary = summary_markdown(report_of(hosted))

    assert "vs reference" not in summary
    assert "Forward KL" not in summary


@pytest.mark.parametrize("kind", ["inputs", "hosted", "side_by_side"])
def test_the_picture_is_a_png(kind: str, request: pytest.FixtureRequest) -> None:
    report = report_of(request.getfixturevalue(kind))

    png = metric_plot_png(report)

    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert metric_plot_markdown(report).endswith(f"(data:image/png;base64,{base64.b64encode(png).decode()})")
