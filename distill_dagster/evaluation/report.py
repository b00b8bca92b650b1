"""Renders an evaluation as one self-contained page: no script, no request, every text escaped."""

from functools import lru_cache

import polars as pl
from jinja2 import Template

from distill_dagster.evaluation import formatting
from distill_dagster.evaluation.cost import SECONDS, USD
from distill_dagster.evaluation.cost_plot import trade_plot
from distill_dagster.evaluation.gate_view import banner, gate_facts, gate_plot, gate_rows
from distill_dagster.evaluation.headlines import is_better
from distill_dagster.evaluation.model import (
    COUNT_BASELINES,
    PERPLEXITY,
    EvaluationReport,
    Measure,
    System,
    answering,
    companion_name,
)
from distill_dagster.evaluation.page import page_environment, without_controls
from distill_dagster.evaluation.plots import bar_plot, interval_plot, loss_plot
from distill_dagster.evaluation.statistics import Estimate
from distill_dagster.evaluation.trade import find_trade, payer
from distill_dagster.evaluation.view import Timings, cards, side_by_side, student_facts
from distill_dagster.metrics import metric_label

TEMPLATE = "report.html.j2"
Measurements = dict[str, Timings]
"""`prediction`, `cost`, `training` and `capture`, each by system."""


def render_html(report: EvaluationReport, predictions: pl.DataFrame, measurements: Measurements) -> str:
    """The page of a report.

    Args:
        report: the evaluation.
        predictions: its predictions but for golden rows, for the texts shown side by side.
        measurements: as in measurements.json.
    """
    fidelity = {measure.name: measure for measure in report.fidelity}
    text_measures = [measure for measure in report.fidelity if measure.unit == "score"]
    samples, companions = report.samples, report.companions
    decided = report.gate if report.gate and report.gate.decisions else None
    trade = find_trade(report, measurements["cost"])
    source = _template().render(
        report=report,
        said=banner(report.gate),
        gate_metric=metric_label(decided.metric) if decided else "",
        gate_rows=gate_rows(decided) if decided else [],
        gate_facts=gate_facts(decided) if decided else [],
        gate_plot=gate_plot(decided) if decided else "",
        answering=answering(companions),
        student_pairs=[(System.STUDENT, other) for other in companions],
        facts=student_facts(report, measurements["training"], measurements["capture"]),
        cards=cards(report, measurements["prediction"]),
        measurements=measurements,
        trade=trade,
        trade_plot=trade_plot(trade),
        primary_label=metric_label(report.primary_metric),
        worst=side_by_side(predictions, samples.worst, report.primary_metric, companions),
        fixed=side_by_side(predictions, samples.fixed, report.primary_metric, companions),
        quality_plot=interval_plot(report.measured_quality, "Text metrics against the human references"),
        closeness_plot=interval_plot(text_measures, "Text metrics against the teacher’s answers"),
        token_plots=[bar_plot(fidelity[name]) for name in ("top1", "forward_kl") if name in fidelity],
        loss_plot=loss_plot(report.training),
    )
    return without_controls(source)


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = page_environment(
        COUNT_BASELINES=COUNT_BASELINES,
        PERPLEXITY=PERPLEXITY,
        SECONDS=SECONDS,
        System=System,
        USD=USD,
        system_label=formatting.system_label,
        other_label=_other_label,
        dollars=formatting.dollars,
        parameters=formatting.parameters,
        payer=payer,
        size=formatting.size,
        method_label=lambda estimate: formatting.METHOD_LABELS[estimate.method],
        verdict=_verdict,
    )
    return environment.get_template(TEMPLATE)


def _verdict(measure: Measure, difference: Estimate) -> str:
    """`better`, `worse` or `undecided`; empty where neither direction is better."""
    if measure.higher_is_better is None or difference.value is None:
        return ""
    better = is_better(measure, difference)
    return "undecided" if better is None else "better" if better else "worse"


def _other_label(system: str) -> str:
    """A system inside a phrase: another student by its name, the rest in lower case."""
    label = formatting.system_label(system)
    return label if companion_name(system) else label.lower()
