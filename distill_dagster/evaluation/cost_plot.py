"""Quality against cost as one SVG plot: each system at what it costs and how good its answers are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from markupsafe import Markup

from distill_dagster import drawing as draw
from distill_dagster.evaluation.cost import USD
from distill_dagster.evaluation.formatting import dollars, interval, number, quantity, shortened, system_label
from distill_dagster.evaluation.plots import mark, role
from distill_dagster.evaluation.statistics import Estimate
from distill_dagster.evaluation.trade import Trade, TradePoint

WIDTH, HEIGHT = 380, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 26, 42
_LOG_FROM = 10  # times the cheapest, from which the axis is logarithmic
_MARGIN = 0.15
_LABEL_CHARS, _CHAR_WIDTH = 20, 6.9
Box: TypeAlias = tuple[float, float, float, float]


def trade_plot(trade: Trade | None) -> Markup:
    """A point for each system with its interval of quality; cheaper is left, better is up. Empty without a trade."""
    if trade is None:
        return Markup("")
    beside = [] if trade.teacher_cost is None else [trade.teacher_cost]
    across = _Across.of([*beside, *(point.cost for point in trade.points)])
    up = _Up.of([point.quality for point in trade.points])
    parts = [*_grid(across, up, trade)]
    places = [_Place.of(point, across, up) for point in trade.points]
    for place in places:
        if place.top < place.bottom:
            parts.append(draw.line(place.x, place.bottom, place.x, place.top, f"stroke-{role(place.system)}"))
        parts.append(mark(place.x, place.y, place.system))
    for x in map(across, beside):
        parts.append(draw.line(x, _TOP, x, HEIGHT - _BOTTOM, "stroke-teacher dashed"))
        is_right = x > (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(
            draw.text(x + (-6 if is_right else 6), _TOP + 12, "the teacher’s cost", "", "end" if is_right else "start")
        )
    parts += _labels(places, [(x - 3, _TOP, x + 3, HEIGHT - _BOTTOM) for x in map(across, beside)])
    described = "; ".join(
        f"{_name(point.system)}: {_money(point.cost, trade.cost)}, {quantity(point.quality.value, 'score')} "
        f"{interval(point.quality, 'score')}"
        for point in trade.points
    )
    return draw.svg(WIDTH, HEIGHT, "Quality against cost", f"{trade.note}. {described}.", parts)


@dataclass(frozen=True)
class _Across:
    """Costs to pixels, in logarithms where they span more than _LOG_FROM times."""

    low: float
    high: float
    is_log: bool

    @classmethod
    def of(cls, costs: Sequence[float]) -> "_Across":
        least, most = min(costs), max(costs)
        if least > 0 and most / least > _LOG_FROM:
            room = (most / least) ** _MARGIN
            return cls(least / room, most * room, True)
        room = _MARGIN * ((most - least) or most or 1.0)
        return cls(max(0.0, least - room), most + room, False)

    def __call__(self, cost: float) -> float:
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, cost)) if self.is_log else (self.low, self.high, cost)
        )
        return _LEFT + (at - low) / (high - low) * (WIDTH - _RIGHT - _LEFT)

    def ticks(self) -> list[float]:
        """Round costs: powers of ten and their halves where logarithmic, as many as have room."""
        if not self.is_log:
            return draw.round_ticks(self.low, self.high, 4)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            ticks = [step * 10.0**power for power in powers for step in steps]
            shown = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(shown) <= 6:
                return shown
        return shown[:: math.ceil(len(shown) / 6)]


@dataclass(frozen=True)
class _Up:
    """Scores to pixels, from 0 to 1 at most."""

    low: float
    high: float

    @classmethod
    def of(cls, estimates: Sequence[Estimate]) -> "_Up":
        ends = [end for e in estimates for end in (e.value, e.low, e.high) if end is not None]
        room = _MARGIN * ((max(ends) - min(ends)) or 0.2)
        low, high = max(0.0, min(ends) - room), min(1.0, max(ends) + room)
        return cls(low, high) if high > low else cls(0.0, 1.0)

    def __call__(self, score: float) -> float:
        return HEIGHT - _BOTTOM - (score - self.low) / (self.high - self.low) * (HEIGHT - _BOTTOM - _TOP)


def _grid(across: _Across, up: _Up, trade: Trade) -> list[str]:
    parts = []
    bottom = HEIGHT - _BOTTOM
    scores, costs = draw.round_ticks(up.low, up.high, 4), across.ticks()
    for tick in scores:
        parts.append(draw.line(_LEFT, up(tick), WIDTH - _RIGHT, up(tick), "grid"))
        parts.append(draw.text(_LEFT - 7, up(tick) + 4, number(tick, _decimals(scores)), "tick", "end"))
    for tick in costs:
        parts.append(draw.line(across(tick), _TOP, across(tick), bottom, "grid"))
        shown = number(tick, _decimals([tick] if across.is_log else costs))
        shown = f"${shown}" if trade.cost == USD else shown
        parts.append(draw.text(across(tick), bottom + 17, shown, "tick", "middle"))
    scale = ", logarithmic" if across.is_log else ""
    title = f"{trade.unit} per 1,000 answers{scale}"
    parts.append(draw.text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, title, "tick", "middle"))
    parts.append(draw.text(0, 12, f"{trade.label}, from 0 to 1", "tick"))
    return parts


def _decimals(ticks: Sequence[float]) -> int:
    """As many as all ticks need, so that they line up."""
    return max(len(f"{tick:.9f}".rstrip("0").partition(".")[2]) for tick in ticks)


@dataclass(frozen=True)
class _Place:
    """Where a system's mark and the ends of its interval stand, in pixels."""

    system: str
    x: float
    y: float
    top: float
    bottom: float

    @classmethod
    def of(cls, point: TradePoint, across: _Across, up: _Up) -> "_Place":
        y = up(point.quality.value or 0.0)
        low, high = map(up, point.quality.interval) if point.quality.interval else (y, y)
        return cls(point.system, across(point.cost), y, high, low)

    @property
    def boxes(self) -> list[Box]:
        """What no name should cover: the mark and the interval."""
        return [
            (self.x - 6, self.y - 6, self.x + 6, self.y + 6),
            (self.x - 2, self.top - 1, self.x + 2, self.bottom + 1),
        ]

    def spots(self, width: float) -> list[tuple[Box, str]]:
        """Boxes for a name of this width with their text anchors, the best first."""
        right, left, middle = self.x + 11, self.x - 11 - width, self.x - width / 2
        above, below = min(self.y - 11, self.top - 6), max(self.y + 21, self.bottom + 16)
        return [
            (_name_box(at, base, width), anchor)
            for at, base, anchor in (
                (right, self.y + 4, "start"),
                (left, self.y + 4, "end"),
                (middle, above, "middle"),
                (middle, below, "middle"),
                (right, self.y - 10, "start"),
                (right, self.y + 18, "start"),
                (left, self.y - 10, "end"),
                (left, self.y + 18, "end"),
            )
        ]


def _name_box(left: float, base: float, width: float) -> Box:
    return (left, base - 11, left + width, base + 3)


def _labels(places: Sequence[_Place], taken: list[Box]) -> list[str]:
    """Names at the marks: beside, above or below, wherever fewest names, marks and intervals are in the way.

    Args:
        taken: further boxes to leave free.
    """
    taken = [*taken, *(box for place in places for box in place.boxes)]
    parts = []
    for place in places:
        name = _name(place.system)
        spots = place.spots(len(name) * _CHAR_WIDTH)
        box, anchor = min(spots, key=lambda spot: _in_the_way(spot[0], taken))
        taken.append(box)
        at = {"start": box[0], "end": box[2], "middle": (box[0] + box[2]) / 2}[anchor]
        parts.append(draw.text(at, box[3] - 3, name, "strong", anchor))
    return parts


def _in_the_way(box: Box, taken: Sequence[Box]) -> float:
    """What a box covers of others, and what of it lies outside of the picture, in square pixels."""
    outside = _shared(box, box) - _shared(box, (_LEFT, 0, WIDTH, HEIGHT - _BOTTOM))
    return outside + sum(_shared(box, other) for other in taken)


def _shared(one: Box, other: Box) -> float:
    """The area that two boxes (left, top, right, bottom) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _name(system: str) -> str:
    return shortened(system_label(system), _LABEL_CHARS)


def _money(cost: float, kind: str) -> str:
    return dollars(cost) if kind == USD else f"{number(cost, 1)} s"
