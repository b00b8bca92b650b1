"""Small SVG plots for the report: made for inline use, coloured by the page's CSS variables, legible without colour."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from distill_dagster import drawing as draw
from distill_dagster.evaluation.formatting import interval, number, quantity, shortened, system_label
from distill_dagster.evaluation.model import Measure, System, TrainingFacts, companion_name
from distill_dagster.evaluation.statistics import Estimate

WIDTH = 380
_RIGHT = 14
_ROW = 23
_GROUP = 30
_LABEL_CHARS = 11
_BAR_LABEL_CHARS = 19
_SHORT: dict[str, str] = {System.TEACHER_AGAIN: "Asked again"}


@dataclass
class _Drawing:
    """An SVG of fixed width, grown element by element."""

    height: float
    title: str
    description: str
    parts: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        self.parts.append(draw.line(x1, y1, x2, y2, css))

    def text(self, x: float, y: float, content: str, css: str = "", anchor: str = "start") -> None:
        self.parts.append(draw.text(x, y, content, css, anchor))

    def bar(self, x: float, y: float, width: float, height: float, css: str) -> None:
        self.parts.append(_rectangle(x, y, width, height, css))

    def path(self, points: Sequence[tuple[float, float]], css: str) -> None:
        steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.parts.append(f'<path class="{css}" d="M{steps}"/>')

    def svg(self) -> Markup:
        return draw.svg(WIDTH, self.height, self.title, self.description, self.parts)


@dataclass(frozen=True)
class _Scale:
    """Maps low…high to left…right (or bottom…top)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, wanted: int = 4) -> list[float]:
        """Round values inside the scale, about `wanted` of them."""
        return draw.round_ticks(self.low, self.high, wanted)


def role(system: str) -> str:
    """The CSS name of a system: all other students look alike and are told apart by their labels."""
    return "companion" if companion_name(system) else system.replace("_", "-")


def mark(x: float, y: float, system: str) -> str:
    """A dot for the student, a diamond for the teacher, a ring for the base, else a square: no colour needed."""
    match role(system):
        case "teacher":
            return draw.diamond(x, y, 6, "fill-teacher")
        case "teacher-again":
            return draw.diamond(x, y, 6, "ring-teacher")
        case "student":
            return draw.circle(x, y, 4.8, "fill-student")
        case "base":
            return draw.circle(x, y, 4.8, "ring-base")
        case other:
            return _rectangle(x - 4.2, y - 4.2, 8.4, 8.4, f"fill-{other}")


def interval_plot(measures: Sequence[Measure], title: str) -> Markup:
    """One band per measure, in it a dot with its interval per system, on the axis 0-1 of text metrics."""
    shown = [(m, [(s, e) for s, e in m.systems.items() if e.value is not None]) for m in measures]
    if not any(rows for _, rows in shown):
        return Markup("")
    left, top = 84, 8
    height = top + sum(_GROUP + _ROW * len(rows) for _, rows in shown) + 30
    scale = _Scale(0, 1, left, WIDTH - _RIGHT - 40)
    drawing = _Drawing(height, title, _describe(measures))
    _x_axis(drawing, scale, top, height - 24)
    y = top + 14.0
    for measure, rows in shown:
        drawing.text(0, y, measure.label, "strong")
        for system, estimate in rows:
            y += _ROW
            drawing.text(0, y - 2, shortened(_SHORT.get(system) or system_label(system), _LABEL_CHARS))
            _dot(drawing, scale, y - 6, system, estimate)
            drawing.text(WIDTH, y - 2, quantity(estimate.value, measure.unit), "number", "end")
        y += _GROUP
    return drawing.svg()


def bar_plot(measure: Measure) -> Markup:
    """One bar per system from 0, with its interval; the count baselines are the low bars to read it against."""
    rows = [(s, e, e.value) for s, e in measure.systems.items() if e.value is not None]
    if not rows:
        return Markup("")
    left, top, row = 128, 8, 30
    height = top + row * len(rows) + 30
    ends = [end for _, e, _ in rows for end in (e.value, e.high) if end is not None]
    scale = _Scale(0, 1 if measure.unit == "share" else _ceiling(max(ends)), left, WIDTH - _RIGHT - 50)
    drawing = _Drawing(height, measure.label, _describe([measure]))
    _x_axis(drawing, scale, top, height - 24, percent=measure.unit == "share")
    for index, (system, estimate, value) in enumerate(rows):
        y = top + row * index + row / 2
        drawing.text(0, y + 4, shortened(system_label(system), _BAR_LABEL_CHARS))
        drawing.bar(left, y - 8, scale(value) - left, 16, f"fill-{role(system)}")
        if estimate.interval is not None:
            _whisker(drawing, scale, y, estimate.interval)
        drawing.text(WIDTH, y + 4, quantity(value, measure.unit), "number", "end")
    return drawing.svg()


def loss_plot(training: TrainingFacts) -> Markup:
    """Training loss as a line, validation loss as a dashed line with dots, over optimiser steps."""
    curves = {"training": _known(training.loss_curve), "validation": _known(training.validation_curve)}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return Markup("")
    left, top, height = 40, 14, 240
    steps = [step for step, _ in points]
    losses = [loss for _, loss in points]
    x = _Scale(min(0, *steps) if len(steps) > 1 else 0, max(*steps, 1), left, WIDTH - _RIGHT - 60)
    y = _Scale(min(0.0, *losses, 0.0), _ceiling(max(losses)), height - 34, top)
    final = "; ".join(f"{name} ends at {number(curve[-1][1], 3)}" for name, curve in curves.items() if curve)
    drawing = _Drawing(height, "Loss over training steps", f"Nats per token: {final}.")
    for tick in y.ticks():
        drawing.line(left, y(tick), x.end, y(tick), "grid")
        drawing.text(left - 7, y(tick) + 4, f"{tick:g}", "tick", "end")
    for tick in x.ticks():
        drawing.text(x(tick), height - 16, f"{tick:g}", "tick", "middle")
    drawing.text((left + x.end) / 2, height - 1, "optimiser steps", "tick", "middle")
    for name, curve in curves.items():
        if curve:
            drawing.path([(x(step), y(loss)) for step, loss in curve], f"curve-{name}")
    for step, loss in curves["validation"]:
        drawing.parts.append(draw.circle(x(step), y(loss), 3.2, "dot-validation"))
    _curve_labels(drawing, {name: y(curve[-1][1]) for name, curve in curves.items() if curve}, x.end + 8)
    return drawing.svg()


def _curve_labels(drawing: _Drawing, heights: dict[str, float], x: float) -> None:
    """Names at the curves' ends, pushed apart where the ends are close."""
    previous = -math.inf
    for name, y in sorted(heights.items(), key=lambda item: item[1]):
        previous = max(y + 4, previous + 15)
        drawing.text(x, previous, name, f"label-{name}")


def _rectangle(x: float, y: float, width: float, height: float, css: str) -> str:
    return f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" rx="2"/>'


def _x_axis(drawing: _Drawing, scale: _Scale, top: float, bottom: float, *, percent: bool = False) -> None:
    for tick in scale.ticks():
        drawing.line(scale(tick), top, scale(tick), bottom, "grid")
        drawing.text(scale(tick), bottom + 17, f"{tick * 100:g} %" if percent else f"{tick:g}", "tick", "middle")


def _dot(drawing: _Drawing, scale: _Scale, y: float, system: str, estimate: Estimate) -> None:
    if estimate.interval is not None:
        low, high = estimate.interval
        drawing.line(scale(low), y, scale(high), y, f"stroke-{role(system)}")
    drawing.parts.append(mark(scale(estimate.value or 0.0), y, system))


def _whisker(drawing: _Drawing, scale: _Scale, y: float, span: tuple[float, float]) -> None:
    low, high = map(scale, span)
    drawing.line(low, y, high, y, "whisker")
    for end in (low, high):
        drawing.line(end, y - 4, end, y + 4, "whisker")


def _describe(measures: Sequence[Measure]) -> str:
    return " ".join(
        f"{m.label}: "
        + "; ".join(
            f"{system_label(s)} {quantity(e.value, m.unit)} {interval(e, m.unit)}" for s, e in m.systems.items()
        )
        + "."
        for m in measures
    )


def _known(curve: Sequence[tuple[int, float | None]]) -> list[tuple[int, float]]:
    return [(step, loss) for step, loss in curve if loss is not None]


def _ceiling(value: float) -> float:
    """The next round number at or above a value; 1 for what is not positive."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999999)
