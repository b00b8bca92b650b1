"""The trade that a student is made for, as one SVG plot: each system at what it costs and how good its answers are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from markupsafe import Markup

from distill_dagster import drawing as draw
from distill_dagster.evaluation.cost import SECONDS, USD
from distill_dagster.evaluation.formatting import dollars, interval, number, quantity, shortened, system_label
from distill_dagster.evaluation.headlines import closest_measure
from distill_dagster.evaluation.model import EvaluationReport, Measure, System, answering
from distill_dagster.evaluation.plots import mark, role
from distill_dagster.evaluation.statistics import Estimate

WIDTH, HEIGHT = 380, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 26, 42
_LOG_FROM = 10  # times the cheapest, from which the axis is logarithmic
_MARGIN = 0.12
_LABEL_CHARS, _CHAR_WIDTH = 20, 6.9
Box: TypeAlias = tuple[float, float, float, float]
_UNITS = {USD: "dollars", SECONDS: "seconds"}


@dataclass(frozen=True)
class TradePoint:
    """One system: its cost of 1,000 answers, and how good they are."""

    system: str
    cost: float
    quality: Estimate


@dataclass(frozen=True)
class Trade:
    """What the plot shows.

    Attributes:
        label: the measure.
        against: what it is measured against.
        cost: which cost (SECONDS or USD).
        quality: of every system in the order of the tables; None where it was not measured.
        points: the systems that have both.
        teacher_cost: of a teacher that is not, for it has no closeness to itself.
    """

    label: str
    against: str
    cost: str
    quality: dict[str, Estimate | None]
    points: list[TradePoint]
    teacher_cost: float | None

    @property
    def note(self) -> str:
        """What stands beside the title."""
        return f"{self.label} {self.against} and {_UNITS[self.cost]} per 1,000 answers".replace("  ", " ")


def find_trade(report: EvaluationReport, costs: Mapping[str, Mapping[str, float]]) -> Trade | None:
    """The plot's points: in dollars where two systems have them, else in seconds; None where fewer than two have both.

    Quality is the main metric against the references, or where there are none closeness to the teacher. The teacher's
    own closeness is that of its second answers, where it was asked again.

    Args:
        costs: by system, as `answer_costs` gives them.
    """
    measure, against = _quality(report)
    if measure is None:
        return None
    quality = {str(system): measure.systems.get(system) for system in answering(report.companions)}
    if quality[System.TEACHER] is None:
        quality[System.TEACHER] = measure.systems.get(System.TEACHER_AGAIN)
    for cost in (USD, SECONDS):
        points = [
            TradePoint(system, costs[system][cost], estimate)
            for system, estimate in quality.items()
            if estimate is not None and estimate.value is not None and cost in costs.get(system, {})
        ]
        if len(points) > 1:
            has_teacher = any(point.system == System.TEACHER for point in points)
            beside = None if has_teacher else costs.get(System.TEACHER, {}).get(cost)
            return Trade(measure.label, against, cost, quality, points, beside)
    return None


def trade_plot(trade: Trade | None) -> Markup:
    """A point for each system with its interval of quality; cheaper is left, better is up. Empty without a trade."""
    if trade is None:
        return Markup("")
    beside = [] if trade.teacher_cost is None else [trade.teacher_cost]
    across = _Across.of([*beside, *(point.cost for point in trade.points)])
    up = _Up.of([point.quality for point in trade.points])
    parts = [*_grid(across, up, trade)]
    places = [(point, across(point.cost), up(point.quality.value or 0.0)) for point in trade.points]
    for point, x, y in places:
        if point.quality.interval is not None:
            low, high = map(up, point.quality.interval)
            parts.append(draw.line(x, low, x, high, f"stroke-{role(point.system)}"))
        parts.append(mark(x, y, point.system))
    for x in map(across, beside):
        parts.append(draw.line(x, _TOP, x, HEIGHT - _BOTTOM, "stroke-teacher dashed"))
        is_right = x > (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(
            draw.text(x + (-6 if is_right else 6), _TOP + 12, "the teacher’s cost", "", "end" if is_right else "start")
        )
    parts += _labels([(_name(point.system), x, y) for point, x, y in places])
    described = "; ".join(
        f"{_name(point.system)}: {_money(point.cost, trade.cost)}, {quantity(point.quality.value, 'score')} "
        f"{interval(point.quality, 'score')}"
        for point in trade.points
    )
    return draw.svg(WIDTH, HEIGHT, "Quality against cost", f"{trade.note}. {described}.", parts)


def _quality(report: EvaluationReport) -> tuple[Measure | None, str]:
    measure = report.measure("quality", report.primary_metric)
    if measure is not None and any(estimate.n for estimate in measure.systems.values()):
        against = "against human references" if report.needs_reference(report.primary_metric) else ""
        return measure, against
    closeness = report.measure("fidelity", report.primary_metric)
    return closeness or closest_measure(report.fidelity, report.primary_metric), "against the teacher’s answers"


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
    for tick in draw.round_ticks(up.low, up.high, 4):
        parts.append(draw.line(_LEFT, up(tick), WIDTH - _RIGHT, up(tick), "grid"))
        parts.append(draw.text(_LEFT - 7, up(tick) + 4, f"{tick:g}", "tick", "end"))
    for tick in across.ticks():
        parts.append(draw.line(across(tick), _TOP, across(tick), bottom, "grid"))
        shown = f"${tick:g}" if trade.cost == USD else f"{tick:,g}"
        parts.append(draw.text(across(tick), bottom + 17, shown, "tick", "middle"))
    scale = ", logarithmic" if across.is_log else ""
    title = f"{_UNITS[trade.cost]} per 1,000 answers{scale}"
    parts.append(draw.text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, title, "tick", "middle"))
    parts.append(draw.text(0, 12, trade.label, "tick"))
    return parts


def _labels(places: Sequence[tuple[str, float, float]]) -> list[str]:
    """Names beside the points: right, left, above or below, wherever fewest names and points are in the way."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for _, x, y in places]
    parts = []
    for name, x, y in places:
        width = len(name) * _CHAR_WIDTH
        spots = [
            (x + 11, y + 4, "start", x + 11),
            (x - 11, y + 4, "end", x - 11 - width),
            (x + 11, y - 10, "start", x + 11),
            (x + 11, y + 18, "start", x + 11),
            (x - 11, y - 10, "end", x - 11 - width),
            (x - 11, y + 18, "end", x - 11 - width),
        ]
        boxes = [(left, base - 11, left + width, base + 3) for _, base, _, left in spots]
        best = min(range(len(spots)), key=lambda index: _in_the_way(boxes[index], taken))
        at, base, anchor, _ = spots[best]
        taken.append(boxes[best])
        parts.append(draw.text(at, base, name, "strong", anchor))
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
