"""Compares what both students reached in the harness's tasks: row by row where their outcomes allow it."""

from dataclasses import dataclass

import polars as pl

from distill_dagster.evaluation.across.measures import A, B, as_compared
from distill_dagster.evaluation.across.model import NotCompared, Part, lacking, sides_without
from distill_dagster.evaluation.across.stored import StoredEvaluation, StoredOutcome
from distill_dagster.evaluation.across.stored_report import StoredHarness, StoredHarnessRow
from distill_dagster.evaluation.model import Comparison, Measure, System
from distill_dagster.evaluation.statistics import DEFAULT_SEED, Estimate, Method, mean_estimate, paired_difference
from distill_dagster.evaluation.unpaired import difference_of

Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Pairing:
    """The rows of both outcomes, or why they cannot be paired."""

    a: StoredOutcome | None
    b: StoredOutcome | None
    confidence: float

    @property
    def obstacle(self) -> str | None:
        if self.a is None or self.b is None:
            return f"the rows of {sides_without(self.a, self.b)} are not stored"
        return None if self.a.tasks == self.b.tasks else "the files of the tasks differ"

    def estimates(self, key: Key) -> tuple[Estimate, Estimate, Estimate] | None:
        """A's mean, B's and the paired difference on the rows of both; None where they cannot be paired."""
        if self.a is None or self.b is None or self.obstacle is not None:
            return None
        both = _scores(self.a, key).join(_scores(self.b, key), on="doc_id", how="inner").sort("doc_id")
        rows = both["doc_id"].to_list()
        left, right = both["score"].to_numpy(), both["score_right"].to_numpy()
        return (
            mean_estimate(left, rows, self.confidence, DEFAULT_SEED),
            mean_estimate(right, rows, self.confidence, DEFAULT_SEED),
            paired_difference(right, left, rows, self.confidence, DEFAULT_SEED),
        )


def compare_harnesses(a: StoredEvaluation, b: StoredEvaluation) -> Part:
    """Every metric of every task that either has: compared, or why it is not.

    Differences are paired by row where both outcomes are stored and the tasks' files are the same. Elsewhere they are
    Welch's, as if the rows were others: wider than the paired one would mostly be. A metric that is no mean over rows
    has a difference without an interval.

    Raises:
        StorageError: an outcome cannot be read.
    """
    left, right = a.report.harness, b.report.harness
    if left is None and right is None:
        return Part([], [])
    if left is None or right is None:
        return lacking("harness", f"no task of the harness was run in {sides_without(left, right)}")
    pairing = _Pairing(a.outcome(), b.outcome(), b.report.confidence)
    own, other = _by_key(left), _by_key(right)
    part = Part([], [])
    for key in [*other, *(key for key in own if key not in other)]:
        why = _hindrance(own.get(key), other.get(key), left, right)
        if why is None:
            part.measures.append(as_compared("harness", _measure(own[key], other[key], pairing)))
        else:
            part.not_compared.append(NotCompared(table="harness", name=_name(key), why=why))
    return part


def _by_key(harness: StoredHarness) -> dict[Key, StoredHarnessRow]:
    rows = [row for row in harness.rows if System.STUDENT in row.systems]
    return {(row.task, row.metric, row.filter): row for row in rows}


def _name(key: Key) -> str:
    task, metric, filtered = key
    return f"{task}/{metric}" if filtered == "none" else f"{task}/{metric}/{filtered}"


def _hindrance(
    a: StoredHarnessRow | None, b: StoredHarnessRow | None, left: StoredHarness, right: StoredHarness
) -> str | None:
    if a is None or b is None:
        return f"run in {'A' if b is None else 'B'} only"
    said = _settings(a, left), _settings(b, right)
    return None if said[0] == said[1] else f"run otherwise: {said[0]} in A, {said[1]} in B"


def _settings(row: StoredHarnessRow, harness: StoredHarness) -> str:
    version = "no version" if row.task_version is None else f"version {row.task_version}"
    limit = "all rows" if harness.limit is None else f"at most {harness.limit} rows"
    return f"{version}, {row.shots}-shot, {limit}, {'with' if harness.chat_template else 'no'} chat template"


def _measure(a: StoredHarnessRow, b: StoredHarnessRow, pairing: _Pairing) -> Measure:
    left, right = a.systems[System.STUDENT], b.systems[System.STUDENT]
    note = ""
    if Method.NO_ROW_SCORES in (left.method, right.method):
        difference = _of_values(left, right)
    elif (found := pairing.estimates((b.task, b.metric, b.filter))) is not None:
        left, right, difference = found
    else:
        difference, note = difference_of(right, left), f"; not paired: {pairing.obstacle}"
    version = "no version" if b.task_version is None else f"version {b.task_version}"
    return Measure(
        name=_name((b.task, b.metric, b.filter)),
        label=f"{b.task}: {b.metric}",
        description=f"{version}, {b.shots}-shot{'' if b.filter == 'none' else f', filter {b.filter}'}{note}",
        unit="score",
        higher_is_better=b.higher_is_better,
        systems={A: left, B: right},
        comparisons=[Comparison(left=B, right=A, difference=difference)],
    )


def _of_values(a: Estimate, b: Estimate) -> Estimate:
    value = None if a.value is None or b.value is None else b.value - a.value
    return Estimate(value, None, None, b.n, b.n_clusters, Method.NO_ROW_SCORES, b.confidence)


def _scores(outcome: StoredOutcome, key: Key) -> pl.DataFrame:
    """doc_id and score of one metric's rows."""
    task, metric, filtered = key
    own = (pl.col("task") == task) & (pl.col("metric") == metric) & (pl.col("filter") == filtered)
    return outcome.samples.filter(own).select("doc_id", "score")
