"""Plots are well-formed, described in words, and empty where there is nothing to draw."""

from xml.etree import ElementTree

import pytest

from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.model import EvaluationReport
from distill_dagster.evaluation.plots import bar_plot, interval_plot, loss_plot
from distill_dagster.evaluation.predictions import build_predictions
from distill_dagster.evaluation.score import evaluate


@pytest.fixture
def report(inputs: EvaluationInputs) -> EvaluationReport:
    metrics = inputs.spec.evaluation.metrics
    return evaluate(inputs, build_predictions(inputs.test, inputs.generated, inputs.fidelity, metrics))


def test_every_plot_is_xml_with_a_title_and_its_numbers_in_words(report: EvaluationReport) -> None:
    plots = [interval_plot(report.quality, "Quality"), bar_plot(report.fidelity[1]), loss_plot(report.training)]
    for plot in plots:
        title, description, *shapes = ElementTree.fromstring(plot)
        assert (title.tag, description.tag) == ("title", "desc")
        assert any(character.isdigit() for character in description.text or "")
        assert len(shapes) > 5


def test_bars_include_the_count_baselines(report: EvaluationReport) -> None:
    labels = [element.text for element in ElementTree.fromstring(bar_plot(report.fidelity[1])).iter("text")]

    assert {"Student", "Base", "Bigram table", "Most frequent token"} <= set(labels)


def test_other_students_have_their_marks_and_names(side_by_side: EvaluationInputs) -> None:
    metrics = side_by_side.spec.evaluation.metrics
    predictions = build_predictions(side_by_side.test, side_by_side.generated, side_by_side.fidelity, metrics)
    report = evaluate(side_by_side, predictions)

    for plot in (interval_plot(report.quality, "Quality"), bar_plot(report.fidelity[1])):
        root = ElementTree.fromstring(plot)
        described = root[1].text or ""
        assert {"soft", "Student"} <= {element.text for element in root.iter("text")}
        assert "on_references" in described  # a long name is cut on the plot only
        assert [e for e in root.iter("rect") if e.get("class") == "fill-companion"]


@pytest.mark.parametrize("curve", [[], [(1, None)]])
def test_without_points_there_is_no_plot(report: EvaluationReport, curve: list[tuple[int, float | None]]) -> None:
    training = report.training.model_copy(update={"loss_curve": curve, "validation_curve": []})

    assert loss_plot(training) == ""


def test_one_step_is_a_plot_too(report: EvaluationReport) -> None:
    training = report.training.model_copy(update={"loss_curve": [(1, 0.0)], "validation_curve": []})

    assert ElementTree.fromstring(loss_plot(training)) is not None


def test_titles_are_escaped(report: EvaluationReport) -> None:
    assert ElementTree.fromstring(interval_plot(report.quality, "a < b & c"))[0].text == "a < b & c"
