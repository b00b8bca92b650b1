"""A report in the size of Dagster's metadata: a Markdown table and one picture; no prompt or answer text in either."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distill_dagster.evaluation.formatting import UNDEFINED, interval, quantity, system_label
from distill_dagster.evaluation.gate_view import banner
from distill_dagster.evaluation.headlines import is_better
from distill_dagster.evaluation.model import EvaluationReport, Measure, System, answering, companion_name
from distill_dagster.judging.view import judge_markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = {System.TEACHER: ("#a16207", "D"), System.STUDENT: ("#0f766e", "o"), System.BASE: ("#78716c", "s")}
_COMPANION_STYLES = [("#6d4fa3", "^"), ("#2f6fb0", "v"), ("#b0487c", "P"), ("#6b7f2a", "X")]
_BAND = 0.66  # of a row's height, for its systems


def summary_markdown(report: EvaluationReport) -> str:
    """The verdict, headlines, then a table row per measure: every model, the student's differences with intervals."""
    systems = answering(report.companions)
    others = [System.BASE, *report.companions]
    header = ["measure", *(_lower_label(system) for system in systems)]
    header += [*(f"student − {_lower_label(other)}" for other in others), "n (groups)"]
    rule = ["---", *("--:" for _ in systems), *(":--" for _ in others), "--:"]
    lines = [f"**Release gate: {banner(report.gate).word.lower()}**", ""]
    lines += [f"- {sentence}" for sentence in report.headlines]
    lines += ["", _line(header), f"|{'|'.join(rule)}|"]
    for measure in report.measured_quality:
        against = "vs reference" if report.needs_reference(measure.name) else ""
        lines.append(_row(measure, against, systems, others))
    lines += [_row(measure, "vs teacher", systems, others) for measure in report.fidelity]
    lines += [_row(measure, "", systems, others) for measure in report.health]
    if report.judge:
        lines += ["", judge_markdown(report.judge).rstrip()]
    return "\n".join(lines) + "\n"


def metric_plot_png(report: EvaluationReport) -> bytes:
    """Dots and intervals of every model on every text metric, as PNG for dark and light pages."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    candidates = [
        ("against human references", report.measured_quality),
        ("against the teacher’s answers", [m for m in report.fidelity if m.unit == "score"]),
    ]
    panels = [(title, measures) for title, measures in candidates if measures]
    systems = answering(report.companions)
    height = 0.9 + max(0.75, 0.22 * len(systems)) * max(len(measures) for _, measures in panels)
    figure = Figure(figsize=(4.2 * len(panels), height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, measures) in zip(axes, panels, strict=True):
        _panel(ax, title, measures, systems)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(systems), 5), frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def metric_plot_markdown(report: EvaluationReport) -> str:
    """The picture as a Markdown image with its bytes in the URL."""
    encoded = base64.b64encode(metric_plot_png(report)).decode("ascii")
    return f"![Text metrics of each model](data:image/png;base64,{encoded})"


def _row(measure: Measure, against: str, systems: Sequence[str], others: Sequence[str]) -> str:
    values = [
        quantity(measure.systems[system].value if system in measure.systems else None, measure.unit)
        for system in systems
    ]
    student = measure.systems[System.STUDENT]
    label = f"{measure.label} {against}".strip()
    differences = [_difference(measure, other) for other in others]
    return _line([label, *values, *differences, f"{student.n:,} ({student.n_clusters:,})"])


def _difference(measure: Measure, other: str) -> str:
    """The student less another; bold where one is better."""
    difference = measure.comparison(System.STUDENT, other)
    if difference is None:
        return UNDEFINED
    shown = f"{quantity(difference.value, measure.unit, signed=True)} {interval(difference, measure.unit, signed=True)}"
    return shown if is_better(measure, difference) is None else f"**{shown}**"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _lower_label(system: str) -> str:
    return system_label(system).lower()


def _style(system: str, systems: Sequence[str]) -> tuple[str, str]:
    """Colour and marker."""
    if companion_name(system) is None:
        return _STYLES[System(system)]
    return _COMPANION_STYLES[(systems.index(system) - 2) % len(_COMPANION_STYLES)]  # after teacher and student


def _panel(ax: "Axes", title: str, measures: list[Measure], systems: Sequence[str]) -> None:
    """Rows top to bottom in the order of the tables; the systems of a measure slightly apart."""
    for row, measure in enumerate(measures):
        for index, system in enumerate(systems):
            estimate = measure.systems.get(system)
            if estimate is None or estimate.value is None:
                continue
            y = row + (index - (len(systems) - 1) / 2) * _BAND / len(systems)
            low, high = estimate.interval or (estimate.value, estimate.value)
            colour, marker = _style(system, systems)
            ax.plot([low, high], [y, y], color=colour, linewidth=1.8, clip_on=False)
            label = system_label(system) if row == 0 else None
            ax.plot([estimate.value], [y], marker, color=colour, clip_on=False, label=label)
    ax.set_yticks(range(len(measures)), [measure.label for measure in measures])
    ax.set_ylim(len(measures) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.set_title(title, fontsize=10, loc="left")
    ax.grid(axis="x", color="#d6d3d1", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=9)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
