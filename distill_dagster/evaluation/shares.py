"""Shares of the teacher's own scores that students and base reach: of its quality, and of its agreement with itself."""

from collections.abc import Callable, Sequence

import polars as pl

from distill_dagster.evaluation.declared_metrics import metric_facts
from distill_dagster.evaluation.formatting import interval, quantity, rows_in_groups
from distill_dagster.evaluation.headlines import closest_measure
from distill_dagster.evaluation.model import Measure, SecondSample, System
from distill_dagster.evaluation.predictions import vs_reference, vs_teacher
from distill_dagster.evaluation.tables import Entries, Scored
from distill_dagster.metrics import MetricFacts
from distill_dagster.spec.metrics import MACRO_F1


def retention(scored: Scored, metrics: Entries) -> list[Measure]:
    """Each learner's quality over the teacher's, on the rows of both; metrics without any are left out.

    Macro F1 is no sum over rows, so it has no share.
    """
    shares = [
        _share(scored, facts, vs_reference, System.TEACHER, "of the teacher’s score") for facts in _per_row(metrics)
    ]
    return [share for share in shares if any(estimate.value is not None for estimate in share.systems.values())]


def second_sample(scored: Scored, metrics: Entries) -> SecondSample | None:
    """How the teacher's second answers were, and each learner's closeness over theirs; None where it was not asked."""
    again = scored.predictions.filter(pl.col("model") == System.TEACHER_AGAIN.value).unique("prompt_id")
    if again.is_empty():
        return None
    return SecondSample(
        prompts=len(again),
        unanswered=again["prediction"].null_count(),
        reached=[
            _share(scored, facts, vs_teacher, System.TEACHER_AGAIN, "of the teacher’s agreement with itself")
            for facts in _per_row(metrics)
            if facts.needs_reference
        ],
    )


def ceiling_sentences(sample: SecondSample | None, fidelity: Sequence[Measure], primary: str) -> list[str]:
    """What the student reaches of the teacher's agreement with itself; nothing where that was not measured."""
    measure = closest_measure(fidelity, primary)
    if sample is None or measure is None:
        return []
    reached = next((one.systems[System.STUDENT] for one in sample.reached if one.name == measure.name), None)
    if reached is None or reached.value is None:
        return []
    span = f" {interval(reached, 'share')}" if reached.interval else ""
    own = quantity(measure.systems[System.TEACHER_AGAIN].value, measure.unit)
    return [
        f"The student reaches {quantity(reached.value, 'share')}{span} of the teacher’s own agreement with itself on "
        f"{measure.label} (asked again, the teacher comes to {own} against its first answers), "
        f"{rows_in_groups(reached)}."
    ]


def _per_row(metrics: Entries) -> list[MetricFacts]:
    return [metric_facts(metric) for metric in metrics if metric != MACRO_F1]


def _share(scored: Scored, facts: MetricFacts, column: Callable[[str], str], whole: str, described: str) -> Measure:
    return Measure(
        name=facts.name,
        label=facts.label,
        description=described,
        unit="share",
        higher_is_better=True,
        systems={system: scored.kept(column(facts.name), system, whole) for system in scored.learners},
        comparisons=[],
    )
