"""One SVG plot for the comparison: each design at its cost and its quality, coloured by the page's CSS variables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from distill_dagster.evaluation.statistics import Estimate
from distill_dagster.variants.formatting import interval, shown
from distill_dagster.variants.make import DECLARED
from distill_dagster.variants.model import DesignMeasure

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 34, 46
LABEL_HEIGHT = 16
TICK_STEPS = (1, 2, 2.5, 5, 10)
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
        raw = (self.high - self.low) / wanted
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(s * power for s in TICK_STEPS if s * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]

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
    # The parts are built from numbers, fixed class names and escaped text only.
    return Markup(
        f'<svg class="plot wide" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(f'{y.label} against {x.label.lower()}')}</title><desc>{escape(described)}.</desc>"
        f"{''.join(parts)}</svg>"
    )


def _grid(across: _Axis, up: _Axis) -> list[str]:
    parts = []
    for tick in up.ticks(5):
        y = up(tick)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "grid"))
        parts.append(_text(LEFT - 8, y + 4, _tick(tick, up), "tick", "end"))
    for tick in across.ticks(5):
        x = across(tick)
        parts.append(_line(x, TOP, x, HEIGHT - BOTTOM, "grid"))
        parts.append(_text(x, HEIGHT - BOTTOM + 17, _tick(tick, across), "tick", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, across.title, "tick", "middle"))
    parts.append(_text(0, 14, up.title, "tick"))
    return parts


def _point(name: str, x: float, y: float, estimate: Estimate, up: _Axis) -> list[str]:
    role = "teacher" if name == DECLARED else "student"
    parts = []
    if estimate.interval is not None:
        low, high = estimate.interval
        parts.append(_line(x, up(low), x, up(high), f"stroke-{role}"))
    if role == "teacher":
        parts.append(f'<path class="fill-teacher" d="M{x:.1f} {y - 7:.1f}l7 7-7 7-7-7z"/>')
    else:
        parts.append(f'<circle class="fill-student" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>')
    return parts


def _labels(places: Sequence[tuple[str, float, float]]) -> list[str]:
    """Names beside the points, on the side with more room, pushed apart where they would touch."""
    parts = []
    lowest: dict[str, float] = {}
    for name, x, y in sorted(places, key=lambda place: place[2]):
        anchor = "end" if x > (LEFT + WIDTH - RIGHT) / 2 else "start"
        at = max(y + 4, lowest.get(anchor, -math.inf) + LABEL_HEIGHT)
        lowest[anchor] = at
        parts.append(_text(x + (-12 if anchor == "end" else 12), at, name, "strong", anchor))
    return parts


def _tick(value: float, axis: _Axis) -> str:
    if axis.measure.unit == "share":
        return f"{value * 100:g} %"
    return f"${value:g}" if axis.measure.unit == "usd" else f"{value:g}"


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, content: str, css: str, anchor: str = "start") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
