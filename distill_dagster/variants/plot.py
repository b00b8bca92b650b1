"""One SVG plot for the comparison: each design at its cost and its quality, coloured by the page's CSS variables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from distill_dagster import drawing as draw
from distill_dagster.evaluation.statistics import Estimate
from distill_dagster.variants.formatting import interval, shown
from distill_dagster.variants.make import DECLARED
from distill_dagster.variants.model import DesignMeasure

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 34, 46
LABEL_HEIGHT = 16
MARGIN = 0.12


@dataclass(frozen=True)
class _Axis:
    """Maps the values of a measure, with their intervals and a margin, to pixels from `start` to `end`."""

    measure: DesignMeasure
    low: float
    high: float
    start: float
    end: float

    @classmethod
    def of(cls, measure: DesignMeasure, start: float, end: float) -> "_Axis":
        ends = [
            value
            for estimate in measure.designs.values()
            for value in (estimate.value, estimate.low, estimate.high)
            if value is not None
        ]
        spread = max(ends) - min(ends) or max(abs(max(ends)), 1.0) * 0.5
        low, high = min(ends) - MARGIN * spread, max(ends) + MARGIN * spread
        if min(ends) >= 0:
            low = max(low, 0.0)
        if measure.unit in ("score", "share"):
            high = min(high, 1.0) if max(ends) < 1 else 1.0
        return cls(measure, low, high if high > low else low + 1, start, end)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, wanted: int) -> list[float]:
        return draw.round_ticks(self.low, self.high, wanted)

    @property
    def title(self) -> str:
        unit = {"usd": "dollars per 1,000 requests", "words": "per answer", "tokens": "per request"}
        said = unit.get(self.measure.unit)
        return f"{self.measure.label}, {said}" if said else self.measure.label


def trade_off_plot(x: DesignMeasure, y: DesignMeasure) -> Markup:
    """A point for each design with both values, with its interval of `y`; a diamond is the declared design.

    Empty where no design has both.
    """
    points = [
        (name, x.designs[name].value, y.designs[name])
        for name in y.designs
        if x.designs[name].value is not None and y.designs[name].value is not None
    ]
    if not points:
        return Markup("")
    across = _Axis.of(x, LEFT, WIDTH - RIGHT)
    up = _Axis.of(y, HEIGHT - BOTTOM, TOP)
    parts = [*_grid(across, up)]
    places = []
    for name, cost, estimate in points:
        assert cost is not None
        assert estimate.value is not None
        place = (name, across(cost), up(estimate.value))
        places.append(place)
        parts += _point(*place, estimate, up)
    parts += _labels(places)
    described = "; ".join(
        f"{name}: {x.label.lower()} {shown(cost, x.unit)}, {y.label} {shown(estimate.value, y.unit)} "
        f"{interval(estimate, y.unit)}"
        for name, cost, estimate in points
    )
    title = f"{y.label} against {x.label.lower()}"
    return draw.svg(WIDTH, HEIGHT, title, f"{described}.", parts, "plot wide")


def _grid(across: _Axis, up: _Axis) -> list[str]:
    parts = []
    for tick in up.ticks(5):
        y = up(tick)
        parts.append(draw.line(LEFT, y, WIDTH - RIGHT, y, "grid"))
        parts.append(draw.text(LEFT - 8, y + 4, _tick(tick, up), "tick", "end"))
    for tick in across.ticks(5):
        x = across(tick)
        parts.append(draw.line(x, TOP, x, HEIGHT - BOTTOM, "grid"))
        parts.append(draw.text(x, HEIGHT - BOTTOM + 17, _tick(tick, across), "tick", "middle"))
    parts.append(draw.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, across.title, "tick", "middle"))
    parts.append(draw.text(0, 14, up.title, "tick"))
    return parts


def _point(name: str, x: float, y: float, estimate: Estimate, up: _Axis) -> list[str]:
    role = "teacher" if name == DECLARED else "student"
    parts = []
    if estimate.interval is not None:
        low, high = estimate.interval
        parts.append(draw.line(x, up(low), x, up(high), f"stroke-{role}"))
    if role == "teacher":
        parts.append(draw.diamond(x, y, 7, "fill-teacher"))
    else:
        parts.append(draw.circle(x, y, 5.5, "fill-student"))
    return parts


def _labels(places: Sequence[tuple[str, float, float]]) -> list[str]:
    """Names beside the points, on the side with more room, pushed apart where they would touch."""
    parts = []
    lowest: dict[str, float] = {}
    for name, x, y in sorted(places, key=lambda place: place[2]):
        anchor = "end" if x > (LEFT + WIDTH - RIGHT) / 2 else "start"
        at = max(y + 4, lowest.get(anchor, -math.inf) + LABEL_HEIGHT)
        lowest[anchor] = at
        parts.append(draw.text(x + (-12 if anchor == "end" else 12), at, name, "strong", anchor))
    return parts


def _tick(value: float, axis: _Axis) -> str:
    if axis.measure.unit == "share":
        return f"{value * 100:g} %"
    return f"${value:g}" if axis.measure.unit == "usd" else f"{value:g}"
