"""The sentences at the top of a comparison: each follows from measured values and their intervals, and says no more."""

from collections.abc import Sequence

from distill_dagster.evaluation.formatting import METHOD_LABELS, rows_in_groups
from distill_dagster.evaluation.statistics import Estimate
from distill_dagster.metrics import MetricFacts
from distill_dagster.variants.formatting import interval, shown
from distill_dagster.variants.make import DECLARED
from distill_dagster.variants.model import Agreement, DesignFacts, DesignMeasure


def headlines(
    designs: Sequence[DesignFacts],
    measures: Sequence[DesignMeasure],
    agreement: Sequence[Agreement],
    primary: MetricFacts,
) -> list[str]:
    """Findings in the order in which a reader asks: better, usable, cheaper, and how different at all."""
    against = " against the human references" if primary.needs_reference else ""
    by_name = {measure.name: measure for measure in measures}
    variants = [design.name for design in designs if design.name != DECLARED]
    sentences = []
    is_measured = any(estimate.n for estimate in by_name[primary.name].designs.values())
    if not is_measured:
        sentences.append("No row has a human reference, so quality is not measured: read the answers side by side.")
    for variant in variants:
        if is_measured:
            sentences.append(_quality(by_name[primary.name], variant, against))
        if _is_ever_unusable(by_name["usable"], variant):
            sentences.append(_usable(by_name["usable"], variant))
        sentences.append(_cost(by_name, variant))
    sentences += [_unlike(pair) for pair in agreement if pair.left == DECLARED]
    return sentences


def _quality(measure: DesignMeasure, variant: str, against: str) -> str:
    subject = f"the declared design on {measure.label}{against}"
    verdict = measure.verdict(variant)
    evidence = _evidence(measure, variant)
    if measure.differences[variant].interval is None:
        return f"Nothing can be said of “{variant}” and {subject}: {evidence}."
    if verdict is None:
        return f"Whether “{variant}” beats {subject} is undecided: {evidence}."
    return f"“{variant}” {'beats' if verdict else 'falls behind'} {subject}: {evidence}."


def _usable(measure: DesignMeasure, variant: str) -> str:
    return f"Usable answers of “{variant}” and of the declared design: {_evidence(measure, variant)}."


def _cost(by_name: dict[str, DesignMeasure], variant: str) -> str:
    cost, tokens = by_name["cost"], by_name["output_tokens"]
    if not cost.designs[variant].value and not cost.designs[DECLARED].value:
        return f"Output tokens of “{variant}” and of the declared design: {_evidence(tokens, variant)}, per request."
    verdict, evidence = cost.verdict(variant), _evidence(cost, variant)
    if verdict is None:
        return f"Whether “{variant}” is cheaper or dearer is undecided: per 1,000 requests {evidence}."
    return f"“{variant}” is {'cheaper' if verdict else 'dearer'}: per 1,000 requests {evidence}."


def _unlike(pair: Agreement) -> str:
    similarity = pair.similarity
    if similarity.value is None:
        return f"No row has an answer of both “{pair.right}” and the declared design."
    span = f" {interval(similarity, 'score')}" if similarity.interval else ""
    value = shown(similarity.value, "score")
    return f"Answers of “{pair.right}” and of the declared design are alike to {value}{span} (chrF, 1 is equal)."


def _is_ever_unusable(measure: DesignMeasure, variant: str) -> bool:
    return any(measure.designs[name].value != 1 for name in (variant, DECLARED))


def _evidence(measure: DesignMeasure, variant: str) -> str:
    """`0.412 vs 0.380, difference +0.032 [+0.010, +0.054], n = 50 rows in 48 groups`."""
    difference = measure.differences[variant]
    values = [shown(measure.designs[name].value, measure.unit) for name in (variant, DECLARED)]
    change = shown(difference.value, measure.unit, signed=True)
    return f"{values[0]} vs {values[1]}, difference {change} {_span(measure, difference)}, {rows_in_groups(difference)}"


def _span(measure: DesignMeasure, difference: Estimate) -> str:
    if difference.interval is None:
        return f"({METHOD_LABELS[difference.method]})"
    return interval(difference, measure.unit, signed=True)
