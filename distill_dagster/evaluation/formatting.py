"""Numbers as a reader sees them: real minus signs, thin units, and an en dash for what is undefined."""

import math

from distill_dagster.evaluation.model import System, Unit, companion_name
from distill_dagster.evaluation.statistics import Estimate, Method

UNDEFINED = "–"

_SYSTEM_LABELS = {
    System.TEACHER: "Teacher",
    System.TEACHER_AGAIN: "Teacher, asked again",
    System.STUDENT: "Student",
    System.BASE: "Base",
    System.MOST_FREQUENT: "Most frequent token",
    System.BIGRAM: "Bigram table",
}
METHOD_LABELS = {
    Method.CLUSTER_BOOTSTRAP: "cluster bootstrap",
    Method.CLUSTER_T: "cluster t",
    Method.WELCH_T: "Welch’s t over groups",
    Method.TOO_FEW_CLUSTERS: "no interval: fewer than two groups",
    Method.NO_VARIANCE: "no interval: every group has the same value",
    Method.NOT_FINITE: "undefined: not every row's value is finite",
    Method.NO_DATA: "no rows",
    Method.NO_ROW_SCORES: "no interval: the metric is no mean over rows",
}
UNIT_LABELS: dict[Unit, str] = {
    "score": "",
    "share": "",
    "nats_per_token": "nats per token",
    "perplexity": "",
    "ratio": "",
    "tokens": "",
}
_DECIMALS: dict[Unit, int] = {"score": 3, "share": 1, "nats_per_token": 3, "perplexity": 2, "ratio": 2, "tokens": 1}
_NBSP = "\N{NO-BREAK SPACE}"


def system_label(system: str) -> str:
    """What a system is called in tables and plots: another student by its name."""
    return companion_name(system) or _SYSTEM_LABELS[System(system)]


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def number(value: float | None, decimals: int, *, signed: bool = False) -> str:
    """A decimal number; `–` for None and what is not finite."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    text = f"{value:+,.{decimals}f}" if signed else f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")  # a rounded zero has no sign
    return text.replace("-", "\N{MINUS SIGN}")


def count(value: int | None) -> str:
    """A whole number with thousands separators; `–` for None."""
    return UNDEFINED if value is None else f"{value:,}"


def quantity(value: float | None, unit: Unit, *, signed: bool = False) -> str:
    """A value in its unit; shares are shown in percent, their differences in percentage points."""
    scaled = value * 100 if unit == "share" and value is not None else value
    text = number(scaled, _DECIMALS[unit], signed=signed)
    if unit == "share" and text != UNDEFINED:
        return f"{text}{_NBSP}{'pp' if signed else '%'}"
    return text


def interval(estimate: Estimate, unit: Unit, *, signed: bool = False) -> str:
    """`[low, high]` in the unit's scale; `–` where there is none."""
    if estimate.interval is None:
        return UNDEFINED
    scale = 100 if unit == "share" else 1
    ends = [number(end * scale, _DECIMALS[unit], signed=signed) for end in estimate.interval]
    return f"[{ends[0]},{_NBSP}{ends[1]}]"


def dollars(value: float | None) -> str:
    """Dollars in cents, smaller sums with two significant digits; `–` for None."""
    if value is None:
        return UNDEFINED
    decimals = 2 if value == 0 or value >= 1 else 1 - math.floor(math.log10(value))
    return f"${number(value, max(2, decimals))}"


def rows_in_groups(estimate: Estimate) -> str:
    """`n = 71 rows in 65 groups`, without a line break after `n`."""
    rows = f"{count(estimate.n)} row{'' if estimate.n == 1 else 's'}"
    groups = f"{count(estimate.n_clusters)} group{'' if estimate.n_clusters == 1 else 's'}"
    return f"n{_NBSP}={_NBSP}{rows} in {groups}"


def size(value_bytes: float | None) -> str:
    """Bytes in the largest binary unit below them."""
    if value_bytes is None:
        return UNDEFINED
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value_bytes >= scale:
            return f"{number(value_bytes / scale, 1)}{_NBSP}{unit}"
    return f"{count(round(value_bytes))}{_NBSP}B"


def parameters(value: int | None) -> str:
    """A parameter count: `134.5 M`."""
    if value is None:
        return UNDEFINED
    for unit, scale in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= scale:
            return f"{number(value / scale, 1)}{_NBSP}{unit}"
    return count(value)
