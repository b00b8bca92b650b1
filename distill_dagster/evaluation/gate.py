"""The verdict on a student: not worse than its teacher by more than a margin, worse, or not known yet.

A non-inferiority test on golden rows: a pass needs the lower one-sided bound of student - teacher above -margin, a
fail the upper one below it. Yes/no values with one row a cluster have Tango's score bounds; all others the wider of
cluster t (G - 1 degrees of freedom) and a bound that counts one unseen worst cluster (`bounded_mean`), because t alone
passes rare large losses. Never a bootstrap: it passes what it has not seen. With 300 rows, a standard deviation of
0.3, no true difference and a margin of 0.1, over 99 % pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import numpy as np

from distill_dagster.evaluation.bounded_mean import ClusterSums, cluster_bounds
from distill_dagster.evaluation.power import rows_to_decide
from distill_dagster.evaluation.proportions import score_variance, tango_bounds
from distill_dagster.evaluation.statistics import Clusters, Floats, Values


class Status(StrEnum):
    """What the golden rows say."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class GateRule:
    """What was promised before anything was measured.

    Attributes:
        max_degradation: loss against the teacher that is allowed, absolute on the metric's 0-1 scale.
        min_score: the student's own least mean score; None where there is none.
        alpha: of this one look at this one candidate, already split.
    """

    max_degradation: float
    min_score: float | None = None
    alpha: float = 0.05


@dataclass(frozen=True)
class GoldenScores:
    """One value in [0, 1] a row and system, each of shape (n,), on the same rows."""

    student: Values
    teacher: Values
    base: Values | None
    clusters: Clusters


@dataclass(frozen=True)
class Decision:
    """A verdict with what it rests on.

    Attributes:
        reason: one sentence with the numbers.
        difference: mean of student - teacher; None without rows.
        low, high: its one-sided bounds, each at `alpha`; None where the rows are no evidence.
        method: how the bounds were found; "cluster_t" is at least as wide as cluster t.
        n: golden rows.
        n_clusters: groups of rows.
        alpha: of each bound.
        rows_to_decide: about how many rows in all would decide at this alpha if nothing else changed.
        base_would_pass: whether the undistilled base passes the same rule; None where it was not measured.
    """

    status: Status
    reason: str
    difference: float | None
    low: float | None
    high: float | None
    method: Literal["tango", "cluster_t", "none"]
    n: int
    n_clusters: int
    alpha: float
    rows_to_decide: int | None
    base_would_pass: bool | None


@dataclass(frozen=True)
class _Mean:
    """A mean with its one-sided bounds, None where the rows are no evidence, and the variance behind them."""

    value: float
    low: float | None = None
    high: float | None = None
    variance: float | None = None


def decide(scores: GoldenScores, rule: GateRule) -> Decision:
    """The verdict of one look at the golden rows.

    Raises:
        ValueError: a score is not finite or outside [0, 1], lengths differ, a cluster id is missing, the rule's margin
            or floor is outside [0, 1], or its alpha outside (0, 0.1].
    """
    _check_rule(rule)
    clusters = scores.clusters
    if any(cluster is None for cluster in clusters):
        raise ValueError("a golden row has no cluster id; give every row the id of its group")
    student, teacher = (_column(values, len(clusters)) for values in (scores.student, scores.teacher))
    decision = _against_teacher(student, teacher, clusters, rule)
    if scores.base is None:
        return decision
    base = _against_teacher(_column(scores.base, len(clusters)), teacher, clusters, rule)
    decision = replace(decision, base_would_pass=base.status is Status.PASS)
    if decision.status is Status.PASS and decision.base_would_pass:
        reason = (
            f"The student would pass, but so would the undistilled base, whose difference to the teacher is "
            f"{base.difference:+.3f} (the student's is {decision.difference:+.3f}): this metric on these "
            f"{decision.n} rows cannot tell whether distillation worked."
        )
        return replace(decision, status=Status.INCONCLUSIVE, reason=reason)
    return decision


def combine(decision_by_slice: Mapping[str, Decision]) -> Decision:
    """The verdict on slices that must all pass: fail where any fails, pass where all pass.

    Needs no correction for multiplicity: Berger, "Multiparameter hypothesis testing and acceptance sampling" (1982),
    the intersection-union test. Rows are summed, so that a row in two slices counts twice.

    Raises:
        ValueError: there are no slices.
    """
    if not decision_by_slice:
        raise ValueError("there are no slices to combine")
    decisions = list(decision_by_slice.values())
    status = _joint({decision.status for decision in decisions})
    if status is Status.PASS:
        reason = f"All {len(decisions)} slices pass."
    else:
        named = [f"{name} ({d.reason.rstrip('.')})" for name, d in decision_by_slice.items() if d.status is status]
        verdict = "fail" if status is Status.FAIL else "are inconclusive"
        reason = f"{len(named)} of {len(decisions)} slices {verdict}: {'; '.join(named)}."
    base = [decision.base_would_pass for decision in decisions if decision.base_would_pass is not None]
    return Decision(
        status=status,
        reason=reason,
        difference=None,
        low=None,
        high=None,
        method="none",
        n=sum(decision.n for decision in decisions),
        n_clusters=sum(decision.n_clusters for decision in decisions),
        alpha=max(decision.alpha for decision in decisions),
        rows_to_decide=None,
        base_would_pass=len(base) == len(decisions) and all(base) if base else None,
    )


def _against_teacher(student: Floats, teacher: Floats, clusters: Clusters, rule: GateRule) -> Decision:
    n, n_clusters = len(student), len(np.unique(np.asarray(clusters)))
    difference = float((student - teacher).mean()) if n else None

    def result(
        status: Status,
        reason: str,
        mean: _Mean | None = None,
        method: Literal["tango", "cluster_t", "none"] = "none",
        rows: int | None = None,
    ) -> Decision:
        low, high = (mean.low, mean.high) if mean else (None, None)
        return Decision(status, reason, difference, low, high, method, n, n_clusters, rule.alpha, rows, None)

    if n_clusters < 2:
        groups = "group" if n_clusters == 1 else "groups"
        return result(
            Status.INCONCLUSIVE, f"{n} golden rows in {n_clusters} {groups} say nothing about others; two are needed."
        )
    yes_no = bool(np.isin(student, (0, 1)).all() and np.isin(teacher, (0, 1)).all())
    method: Literal["tango", "cluster_t"] = "tango" if yes_no and n_clusters == n else "cluster_t"
    if method == "tango":
        mean = _tango(student, teacher, -rule.max_degradation, rule.alpha)
    else:
        mean = _clustered(student - teacher, clusters, -1, rule.alpha, yes_no)
    if mean.low is None or mean.high is None:
        return result(
            Status.INCONCLUSIVE,
            f"The difference to the teacher is {mean.value:+.3f} in every group of the {n} golden rows; "
            "without any variation this is no evidence about other rows.",
        )
    line = -rule.max_degradation
    own = _own_score(student, clusters, rule)
    statuses = {_side(mean.low > line, mean.high < line)}
    if own is not None and rule.min_score is not None:
        statuses.add(_own_side(own, rule.min_score))
    status = _joint(statuses)
    rows = _rows(mean, own, rule, n) if status is Status.INCONCLUSIVE else None
    return result(status, _reason(status, mean, own, rule, n, rows), mean, method, rows)


def _tango(student: Floats, teacher: Floats, line: float, alpha: float) -> _Mean:
    """The difference of yes/no values, one row a cluster; its variance is the one if `line` were the truth."""
    b, c, n = int((student > teacher).sum()), int((student < teacher).sum()), len(student)
    low, high = tango_bounds(b, c, n, 1 - alpha)
    return _Mean((b - c) / n, low, high, score_variance(b, c, n, line))


def _clustered(values: Floats, clusters: Clusters, least: float, alpha: float, yes_no: bool) -> _Mean:
    """The mean of values in [least, 1]; equal in all clusters they are no evidence, unless the values are yes/no."""
    data = ClusterSums.of(values, clusters)
    if not yes_no and data.error < 1e-12:
        return _Mean(data.mean)
    low, high = cluster_bounds(data, least, 1, alpha)
    return _Mean(data.mean, low, high, len(values) * data.error**2)


def _own_score(student: Floats, clusters: Clusters, rule: GateRule) -> _Mean | None:
    """The student's mean score; yes/no values have Wilson's bounds, against a perfect and a hopeless answerer."""
    if rule.min_score is None:
        return None
    yes_no = bool(np.isin(student, (0, 1)).all())
    if not yes_no or len(np.unique(np.asarray(clusters))) < len(student):
        return _clustered(student, clusters, 0, rule.alpha, yes_no)
    right, n = int(student.sum()), len(student)
    low = 1 + tango_bounds(0, n - right, n, 1 - rule.alpha)[0]
    high = tango_bounds(right, 0, n, 1 - rule.alpha)[1]
    return _Mean(right / n, low, high, rule.min_score * (1 - rule.min_score))


def _own_side(own: _Mean, min_score: float) -> Status:
    if own.low is None or own.high is None:
        return Status.INCONCLUSIVE
    return _side(own.low >= min_score, own.high < min_score)


def _side(above: bool, below: bool) -> Status:
    return Status.PASS if above else Status.FAIL if below else Status.INCONCLUSIVE


def _joint(statuses: set[Status]) -> Status:
    """What must all pass: the worst, where not knowing lies between."""
    return next(status for status in (Status.FAIL, Status.INCONCLUSIVE, Status.PASS) if status in statuses)


def _rows(mean: _Mean, own: _Mean | None, rule: GateRule, n: int) -> int | None:
    """Rows that decide all that is open; None where one of them has no number."""
    open_ones: list[int | None] = []
    line = -rule.max_degradation
    if mean.low is not None and mean.high is not None and not (mean.low > line or mean.high < line):
        open_ones.append(rows_to_decide(mean.value, mean.variance, rule.max_degradation, rule.alpha))
    if own is not None and rule.min_score is not None and _own_side(own, rule.min_score) is Status.INCONCLUSIVE:
        open_ones.append(rows_to_decide(own.value, own.variance, -rule.min_score, rule.alpha))
    known = [rows for rows in open_ones if rows is not None]
    return max(n + 1, *known) if known and len(known) == len(open_ones) else None


def _reason(status: Status, mean: _Mean, own: _Mean | None, rule: GateRule, n: int, rows: int | None) -> str:
    sure = f"{100 * (1 - rule.alpha):.5g} %"
    parts = [
        f"on {n} golden rows the student's score minus the teacher's is {mean.value:+.3f}, with {sure} confidence at "
        f"least {mean.low:+.3f} and with {sure} confidence at most {mean.high:+.3f}, where a loss of "
        f"{rule.max_degradation:.3f} is allowed"
    ]
    if own is not None:
        bounds = "" if own.low is None else f" (at least {own.low:.3f}, at most {own.high:.3f})"
        parts.append(f"its own score is {own.value:.3f}{bounds}, where {rule.min_score:.3f} is required")
    if status is Status.INCONCLUSIVE:
        parts.append(
            f"about {rows:,} golden rows in all would decide"
            if rows
            else "how many rows would decide cannot be told from these"
        )
    opening = {Status.PASS: "Pass", Status.FAIL: "Fail", Status.INCONCLUSIVE: "Not decided"}[status]
    return f"{opening}: {'; '.join(parts)}."


def _column(values: Values, n: int) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (n,):
        raise ValueError(f"one score and one cluster id a golden row (seen: {column.shape} and {n})")
    if not np.isfinite(column).all():
        raise ValueError("a golden score is not finite; a refused or failed row scores 0")
    if not ((column >= 0) & (column <= 1)).all():
        raise ValueError(f"golden scores lie in [0, 1] (seen: {column.min()} to {column.max()})")
    return column


def _check_rule(rule: GateRule) -> None:
    if not 0 <= rule.max_degradation <= 1 or not (rule.min_score is None or 0 <= rule.min_score <= 1):
        raise ValueError(f"a margin and a floor lie in [0, 1] (seen: {rule.max_degradation} and {rule.min_score})")
    if not 0 < rule.alpha <= 0.1:
        raise ValueError(f"the alpha of a look lies in (0, 0.1] (seen: {rule.alpha})")
