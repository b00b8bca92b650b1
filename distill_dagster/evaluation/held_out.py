"""Out of distribution: the same models and measures on partitions that were held out, apart from all other numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from distill_dagster.evaluation.formatting import METHOD_LABELS, count, interval, quantity
from distill_dagster.evaluation.headlines import closest_measure
from distill_dagster.evaluation.model import HeldOut, Measure, System
from distill_dagster.evaluation.shares import retention
from distill_dagster.evaluation.statistics import EXPONENTIAL, STRAIGHT, Estimate, Floats
from distill_dagster.evaluation.tables import Scored, fidelity_table, quality_table
from distill_dagster.evaluation.unpaired import Side, Term, difference_of, unpaired_difference
from distill_dagster.prompts.splits import Split
from distill_dagster.spec.evaluation import EvaluationSpec

_NBSP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Change(Scored):
    """Predictions on both splits: an estimate is that of the held-out rows less that of the test split, unpaired."""

    def _single(self, rows: pl.DataFrame) -> Estimate:
        if "said" in rows.columns:
            away, home = _sides(rows)
            return difference_of(super()._single(away), super()._single(home))
        return self._unpaired(rows, [""])

    def _difference(self, both: pl.DataFrame) -> Estimate:
        if "said" in both.columns:
            away, home = _sides(both)
            return difference_of(super()._difference(away), super()._difference(home))
        return self._unpaired(both, ["", "_right"])

    def _unpaired(self, rows: pl.DataFrame, suffixes: Sequence[str]) -> Estimate:
        away, home = (
            Side([_term(side, suffix) for suffix in suffixes], side["group_id"].to_list()) for side in _sides(rows)
        )
        curve = EXPONENTIAL if "nats" in rows.columns else STRAIGHT
        return unpaired_difference(away, home, self.confidence, self.seed, curve)


def held_out_part(scored: Scored, predictions: pl.DataFrame, spec: EvaluationSpec) -> HeldOut | None:
    """What the models did out of distribution; None where no partition is held out.

    Args:
        scored: the test split's predictions, with the settings of intervals.
        predictions: of both splits.
        spec: which partitions, and what is measured.
    """
    away = predictions.filter(pl.col("split") == Split.HELD_OUT.value)
    if away.is_empty():
        return None
    metrics = spec.metrics
    own = Scored(away, scored.confidence, scored.seed, scored.companions)
    known = predictions.filter(pl.col("model") != System.TEACHER_AGAIN.value)  # it was asked again on test rows alone
    change = Change(known, scored.confidence, scored.seed, scored.companions)
    rows = away.filter(pl.col("model") == System.TEACHER.value)
    kept = rows.group_by("partition").len().sort("partition")
    answering = away.filter(pl.col("model").is_in(list(map(str, own.learners))))
    unanswered = answering.group_by("model").agg(pl.col("prediction").is_null().sum()).sort("model")
    return HeldOut(
        rows_per_partition=dict.fromkeys(spec.held_out_partitions, 0) | dict(kept.iter_rows()),
        rows=len(rows),
        groups=rows["group_id"].n_unique(),
        rows_with_reference=rows["reference"].is_not_null().sum(),
        unanswered=dict(unanswered.iter_rows()),
        quality=_measured(quality_table(own, metrics)),
        retention=retention(own, metrics),
        fidelity=fidelity_table(own, metrics),
        quality_change=_measured(quality_table(change, metrics)),
        fidelity_change=_measured(fidelity_table(change, metrics)),
    )


def held_out_sentences(
    part: HeldOut | None, quality: Sequence[Measure], fidelity: Sequence[Measure], primary: str
) -> list[str]:
    """How the student's main measures change out of distribution; nothing where no partition is held out.

    Args:
        quality, fidelity: the tables of the test split.
        primary: the report's main metric.
    """
    if part is None:
        return []
    names = list(part.rows_per_partition)
    place = f"On the held-out partition “{names[0]}”" if len(names) == 1 else "Out of distribution"
    closest = closest_measure(fidelity, primary)
    against = " against the human references" if any(measure.name == primary for measure in fidelity) else ""
    found = [_sentence(place, primary, against, quality, part.quality, part.quality_change)]
    if closest is not None:
        against = " against the teacher’s answers"
        found.append(_sentence(place, closest.name, against, fidelity, part.fidelity, part.fidelity_change))
    return [sentence for sentence in found if sentence is not None]


def _sentence(place: str, name: str, against: str, *tables: Sequence[Measure]) -> str | None:
    """One measure at home, away, and its change, each from its table."""
    measures = [measure for table in tables for measure in table if measure.name == name]
    if len(measures) < len(tables):
        return None
    unit, subject = measures[0].unit, f"the student’s {measures[0].label}{against}"
    home, away, change = (measure.systems[System.STUDENT] for measure in measures)
    span = interval(change, unit, signed=True) if change.interval else f"({METHOD_LABELS[change.method]})"
    evidence = (
        f"{quantity(away.value, unit)} vs {quantity(home.value, unit)} on the test split, "
        f"difference {quantity(change.value, unit, signed=True)} {span}, "
        f"n{_NBSP}={_NBSP}{count(away.n)} and {count(home.n)} rows"
    )
    if change.low is None or change.high is None:
        return f"{place} nothing can be said of how {subject} changes: {evidence}."
    if change.low <= 0 <= change.high:
        return f"{place} it is undecided whether {subject} changes: {evidence}."
    return f"{place} {subject} is {'higher' if change.low > 0 else 'lower'}: {evidence}."


def _measured(table: Sequence[Measure]) -> list[Measure]:
    return [measure for measure in table if any(estimate.value is not None for estimate in measure.systems.values())]


def _sides(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Held-out rows, test rows."""
    is_away = pl.col("split") == Split.HELD_OUT.value
    return rows.filter(is_away), rows.filter(~is_away)


def _term(rows: pl.DataFrame, suffix: str) -> Term:
    """Numerators and denominators of a side; a mean is over ones, a perplexity's exponent over tokens."""

    def column(name: str) -> Floats:
        return rows[f"{name}{suffix}"].cast(pl.Float64).to_numpy()

    if "value" in rows.columns:
        return column("value"), np.ones(len(rows))
    return (column("nats"), column("read")) if "nats" in rows.columns else (column("top"), column("bottom"))
