"""The sentences at the top of a report: each follows from a measured difference and its interval, and says no more."""

from collections.abc import Sequence

from distill_dagster.evaluation.formatting import (
    METHOD_LABELS,
    UNIT_LABELS,
    count,
    interval,
    quantity,
    rows_in_groups,
    system_label,
)
from distill_dagster.evaluation.model import PERPLEXITY, Counts, Identity, Measure, System, companion_name
from distill_dagster.evaluation.statistics import Estimate

_NAMES = {
    System.BASE: "its undistilled base",
    System.TEACHER: "its teacher",
    System.BIGRAM: "a bigram table of the training answers",
    System.MOST_FREQUENT: "always guessing the most frequent token",
}


def headlines(
    identity: Identity,
    counts: Counts,
    primary: str,
    quality: Sequence[Measure],
    fidelity: Sequence[Measure],
    health: Sequence[Measure],
    companions: Sequence[str] = (),
    further: Sequence[str] = (),
) -> list[str]:
    """Findings in the order in which a reader asks: fidelity, quality, the low bars, what is further, the warnings.

    Args:
        companions: system names of the other students; they are compared on fidelity.
        further: sentences of other parts of the report.
    """
    by_name = {measure.name: measure for measure in fidelity}
    sentences = []
    if "forward_kl" in by_name:
        sentences += [compare(by_name["forward_kl"], other, "to the teacher") for other in (System.BASE, *companions)]
    closeness = closest_measure(fidelity, primary)
    if closeness is not None:
        against = "against the teacher’s answers"
        sentences += [compare(closeness, other, against) for other in (System.BASE, *companions)]
    measure = next(m for m in quality if m.name == primary)
    if any(estimate.n for estimate in measure.systems.values()):
        against = "against the human references" if primary in by_name else ""
        sentences += [compare(measure, System.TEACHER, against), compare(measure, System.BASE, against)]
    if not counts.rows_with_reference:
        sentences.append(_without_references(quality))
    if PERPLEXITY in by_name:
        sentences.append(compare(by_name[PERPLEXITY], System.BASE, "of the teacher’s answers"))
    if "top1" in by_name:
        sentences.append(compare(by_name["top1"], System.BIGRAM, "with the teacher"))
    return [s for s in [*sentences, *further, *_warnings(identity, counts, health)] if s is not None]


def closest_measure(fidelity: Sequence[Measure], primary: str) -> Measure | None:
    """The text metric that says how close answers are to the teacher's: chrF, else the main metric, else the first."""
    by_name = {measure.name: measure for measure in fidelity if measure.unit == "score"}
    return by_name.get("chrf") or by_name.get(primary) or next(iter(by_name.values()), None)


def compare(measure: Measure, other: str, context: str) -> str | None:
    """Whether the student beats `other` on a measure, from the paired interval; None where it was not compared."""
    difference = measure.comparison(System.STUDENT, other)
    if difference is None:
        return None
    subject = f"{_called(other)} on {_label(measure)} {context}".rstrip()
    evidence = _evidence(measure, other, difference)
    verdict = is_better(measure, difference)
    if difference.interval is None:
        return f"Nothing can be said of the student and {subject}: {evidence}."
    if verdict is None:
        return f"Whether the student beats {subject} is undecided: {evidence}."
    return f"The student {'beats' if verdict else 'falls behind'} {subject}: {evidence}."


def is_better(measure: Measure, difference: Estimate) -> bool | None:
    """True or False where the whole interval lies on one side of zero; None where it does not, or neither is better."""
    if measure.higher_is_better is None or difference.low is None or difference.high is None:
        return None
    if difference.low > 0:
        return measure.higher_is_better
    return not measure.higher_is_better if difference.high < 0 else None


def _without_references(quality: Sequence[Measure]) -> str:
    if any(estimate.n for measure in quality for estimate in measure.systems.values()):
        return "No test row has a human reference: of quality only what needs none is measured."
    return "No test row has a human reference: quality is not measured, only closeness to the teacher."


def _called(other: str) -> str:
    name = companion_name(other)
    return _NAMES[System(other)] if name is None else f"“{name}”"


def _label(measure: Measure) -> str:
    return measure.label if measure.unit == "score" else measure.label[:1].lower() + measure.label[1:]


def _evidence(measure: Measure, other: str, difference: Estimate) -> str:
    values = [_single(measure.systems[system], measure, difference) for system in (System.STUDENT, other)]
    unit = f" {UNIT_LABELS[measure.unit]}" if UNIT_LABELS[measure.unit] else ""
    shown = quantity(difference.value, measure.unit, signed=True)
    span = f"({METHOD_LABELS[difference.method]})"
    if difference.interval is not None:
        span = interval(difference, measure.unit, signed=True)
    return f"{values[0]} vs {values[1]}{unit}, difference {shown} {span}, {rows_in_groups(difference)}"


def _single(estimate: Estimate, measure: Measure, difference: Estimate) -> str:
    own_rows = f" (n = {count(estimate.n)})" if estimate.n != difference.n else ""
    return quantity(estimate.value, measure.unit) + own_rows


def _warnings(identity: Identity, counts: Counts, health: Sequence[Measure]) -> list[str]:
    sentences = []
    no_stop = next(m for m in health if m.name == "no_stop").systems[System.STUDENT]
    if no_stop.value:
        span = f" {interval(no_stop, 'share')}" if no_stop.interval else ""
        sentences.append(
            f"{quantity(no_stop.value, 'share')}{span} of the student’s answers were cut off by the limit of "
            f"{count(identity.decoding.max_tokens)} tokens, {rows_in_groups(no_stop)}."
        )
    for name, rows in counts.unanswered.items():
        if rows:
            label = f"“{system_label(name)}”" if companion_name(name) else f"The {system_label(name).lower()}"
            sentences.append(f"{label} left {count(rows)} test rows unanswered; each scores 0.")
    if identity.base_is_pruned:
        sentences.append(f"The base is the {identity.base_label}.")
    return sentences
