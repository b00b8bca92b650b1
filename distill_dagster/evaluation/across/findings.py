"""The sentences at the top of a comparison: each follows from a paired difference and its interval."""

from collections.abc import Sequence

from distill_dagster.evaluation.across.model import (
    Against,
    ComparedMeasure,
    ComparedTable,
    NotCompared,
    SharedRows,
    Side,
)
from distill_dagster.evaluation.formatting import (
    METHOD_LABELS,
    UNIT_LABELS,
    count,
    interval,
    quantity,
    rows_in_groups,
)

HELD_OUT_TABLES: tuple[ComparedTable, ...] = ("held_out_quality", "held_out_fidelity")
TABLE_NAMES: dict[ComparedTable, str] = {
    "quality": "quality",
    "fidelity": "fidelity",
    "health": "health",
    "held_out_quality": "held-out quality",
    "held_out_fidelity": "held-out fidelity",
    "judge": "judge",
    "harness": "harness",
}
_SAID = {
    "better": "{b} is better than {a} on {what}",
    "worse": "{b} is worse than {a} on {what}",
    "undecided": "Whether {b} is better than {a} on {what} is undecided",
    "equal": "{b} and {a} are equal on every row on {what}",
}


def findings(a: Side, b: Side, rows: SharedRows, measures: Sequence[ComparedMeasure], primary: str) -> list[str]:
    """What changed on the main measures and in the judge's eyes, and how many answers did."""
    names = (primary, "forward_kl", "top1")
    main = [one for one in measures if (one.name in names or one.table == "judge") and one.verdict is not None]
    sentences = [_sentence(a, b, one) for one in main]
    sentences.append(
        f"{count(rows.changed_answers)} of {count(rows.both)} answers differ, on the rows whose prompt both have."
    )
    return sentences


def measure_label(measure: ComparedMeasure) -> str:
    """`ROUGE-L vs reference`; what is no text metric by its name alone; with `, held out` where it is on such rows."""
    label = metric_against(measure.label, measure.against if measure.unit == "score" else None)
    return f"{label}, held out" if measure.table in HELD_OUT_TABLES else label


def not_compared_text(one: NotCompared) -> str:
    """`chrF (quality): measured in A only`."""
    return f"{one.name} ({TABLE_NAMES[one.table]}): {one.why}"


def metric_against(label: str, against: Against | None) -> str:
    """`ROUGE-L vs reference`."""
    return label if against is None else f"{label} vs {against}"


def difference_text(measure: ComparedMeasure) -> str:
    """`+0.012 [−0.003, +0.027]`; the reason where there is no interval."""
    difference = measure.difference
    span = interval(difference, measure.unit, signed=True) if difference.interval else _reason(measure)
    return f"{quantity(difference.value, measure.unit, signed=True)} {span}"


def _reason(measure: ComparedMeasure) -> str:
    return "(all rows equal)" if measure.verdict == "equal" else f"({METHOD_LABELS[measure.difference.method]})"


def _sentence(a: Side, b: Side, measure: ComparedMeasure) -> str:
    said = _SAID[measure.verdict or "undecided"].format(a=f"“{a.name}”", b=f"“{b.name}”", what=_in_sentence(measure))
    unit = f" {UNIT_LABELS[measure.unit]}" if UNIT_LABELS[measure.unit] else ""
    values = f"{quantity(measure.b.value, measure.unit)} vs {quantity(measure.a.value, measure.unit)}{unit}"
    return f"{said}: {values}, difference {difference_text(measure)}, {rows_in_groups(measure.difference)}."


def _in_sentence(measure: ComparedMeasure) -> str:
    label = measure_label(measure)
    return label if measure.unit == "score" else label[:1].lower() + label[1:]
