"""Measures of a comparison as a reader sees them."""

from distill_dagster.evaluation.formatting import UNDEFINED, number, quantity
from distill_dagster.evaluation.formatting import interval as unit_interval
from distill_dagster.evaluation.statistics import Estimate
from distill_dagster.variants.model import MeasureUnit

_NBSP = "\N{NO-BREAK SPACE}"


def shown(value: float | None, unit: MeasureUnit, *, signed: bool = False) -> str:
    """A value in its unit: `$0.42`, `+1.5`, `96.0 %`; `–` where it is undefined."""
    if unit == "usd":
        return _usd(value, signed=signed)
    return quantity(value, "tokens" if unit == "words" else unit, signed=signed)


def interval(estimate: Estimate, unit: MeasureUnit, *, signed: bool = False) -> str:
    """`[low, high]` in the unit; `–` where there is none."""
    if unit == "usd":
        if estimate.interval is None:
            return UNDEFINED
        ends = [_usd(end, signed=signed) for end in estimate.interval]
        return f"[{ends[0]},{_NBSP}{ends[1]}]"
    return unit_interval(estimate, "tokens" if unit == "words" else unit, signed=signed)


def _usd(value: float | None, *, signed: bool) -> str:
    """Dollars with as many decimals as small prices need."""
    if value is None:
        return UNDEFINED
    text = number(abs(value), 2 if abs(value) >= 1 or not value else 4)
    is_zero = not text.strip("0.")
    sign = "" if is_zero else "\N{MINUS SIGN}" if value < 0 else "+" if signed else ""
    return f"{sign}${text}"
