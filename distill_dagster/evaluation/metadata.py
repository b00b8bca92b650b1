"""A report in the size of Dagster's metadata: a Markdown table and one picture; no prompt or answer text in either."""

import base64
import io
from typing import TYPE_CHECKING

from distill_dagster.evaluation.formatting import SYSTEM_LABELS, interval, quantity
from distill_dagster.evaluation.headlines import is_better
from distill_dagster.evaluation.model import ANSWERING, EvaluationReport, Measure, System

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {System.TEACHER: "#a16207", System.STUDENT: "#0f766e", System.BASE: "#78716c"}
_MARKERS = {System.TEACHER: "D", System.STUDENT: "o", System.BASE: "s"}


def summary_markdown(report: EvaluationReport) -> str:
    """Headline sentences, then a table row per measure: teacher, student, base, student - base with its interval."""
    lines = [f"- {sentence}" for sentence in report.headlines]
    lines += ["", "| measure | teacher | student | base | student − base | n (groups) |", "|---|--:|--:|--:|:--|--:|"]
    if report.counts.rows_with_reference:
        lines += [_row(measure, "vs reference") for measure in report.quality]
    lines += [_row(measure, "vs teacher") for measure in report.fidelity]
    lines += [_row(measure, "") for measure in report.health]
    if report.gate:
        lines += ["", report.gate.statement]
    return "\n".join(lines) + "\n"


def metric_plot_png(report: EvaluationReport) -> bytes:
    """Dots and intervals of teacher, student and base on every text metric, as PNG for dark and light pages."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [("against the teacher’s answers", [m for m in report.fidelity if m.unit == "score"])]
    if report.counts.rows_with_reference:
        panels.insert(0, ("against human references", report.quality))
    figure = Figure(figsize=(4.2 * len(panels), 0.9 + 0.75 * len(report.quality)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, measures) in zip(axes, panels, strict=True):
        _panel(ax, title, measures)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def metric_plot_markdown(report: EvaluationReport) -> str:
    """The picture as a Markdown image with its bytes in the URL."""
    encoded = base64.b64encode(metric_plot_png(report)).decode("ascii")
    return f"![Text metrics of teacher, student and base](data:image/png;base64,{encoded})"


def _row(measure: Measure, against: str) -> str:
    values = [
        quantity(measure.systems[system].value if system in measure.systems else None, measure.unit)
        for system in ANSWERING
    ]
    difference = measure.comparison(System.STUDENT, System.BASE)
    shown = "–"
    if difference is not None:
        shown = (
            f"{quantity(difference.value, measure.unit, signed=True)} {interval(difference, measure.unit, signed=True)}"
        )
        if is_better(measure, difference) is not None:
            shown = f"**{shown}**"
    student = measure.systems[System.STUDENT]
    label = f"{measure.label} {against}".strip()
    return f"| {label} | {' | '.join(values)} | {shown} | {student.n:,} ({student.n_clusters:,}) |"


def _panel(ax: "Axes", title: str, measures: list[Measure]) -> None:
    """Rows top to bottom in the order of the tables; the systems of a measure slightly apart."""
    for row, measure in enumerate(measures):
        for offset, system in enumerate(ANSWERING):
            estimate = measure.systems.get(system)
            if estimate is None or estimate.value is None:
                continue
            y = row + (offset - 1) * 0.22
            low, high = estimate.interval or (estimate.value, estimate.value)
            ax.plot([low, high], [y, y], color=_COLOURS[system], linewidth=1.8, clip_on=False)
            ax.plot(
                [estimate.value],
                [y],
                _MARKERS[system],
                color=_COLOURS[system],
                clip_on=False,
                label=SYSTEM_LABELS[system] if row == 0 else None,
            )
    ax.set_yticks(range(len(measures)), [measure.label for measure in measures])
    ax.set_ylim(len(measures) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.set_title(title, fontsize=10, loc="left")
    ax.grid(axis="x", color="#d6d3d1", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=9)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
