"""The verdict on a student: not worse than its teacher by more than a margin, worse, or not known yet.

A non-inferiority test on golden rows: a pass needs the lower one-sided bound of student - teacher above -margin, a
fail the upper one below it. Yes/no values with one row a group have Tango's score bound, lowered where it would miss
the truth more often than alpha (`exact_bounds`); all others the wider of cluster t (G - 1 degrees of freedom) and a
bound that counts one unseen worst group (`bounded_mean`), because t alone passes rare large losses. Never a
bootstrap: it passes what it has not seen. How often the verdict errs is measured in docs/gate.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import numpy as np

from distill_dagster.evaluation.golden_means import GoldenMean, difference_mean, own_mean
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
        method: how the bounds were found: "tango" or "cluster_t", each at least that wide; "none" where there are none.
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
    unknown = Decision(
        status=Status.INCONCLUSIVE,
        reason=f"{n} golden rows in {n_clusters} group{'' if n_clusters == 1 else 's'} say nothing about others; "
        "two are needed.",
        difference=float((student - teacher).mean()) if n else None,
        low=None,
        high=None,
        method="none",
        n=n,
        n_clusters=n_clusters,
        alpha=rule.alpha,
        rows_to_decide=None,
        base_would_pass=None,
    )
    if n_clusters < 2:
        return unknown
    mean = difference_mean(student, teacher, clusters, rule.alpha)
    if mean.low is None or mean.high is None:
        reason = (
            f"The difference to the teacher is {mean.value:+.3f} in every group of the {n} golden rows; "
            "without any variation this is no evidence about other rows."
        )
        return replace(unknown, reason=reason)
    own = None if rule.min_score is None else own_mean(student, clusters, rule.alpha)
    status = _joint({_against_margin(mean, rule), _against_floor(own, rule)})
    rows = _rows(mean, own, rule, n) if status is Status.INCONCLUSIVE else None
    return replace(
        unknown,
        status=status,
        reason=_reason(status, mean, own, rule, n, rows),
        low=mean.low,
        high=mean.high,
        method=mean.method,
        rows_to_decide=rows,
    )


def _against_margin(mean: GoldenMean, rule: GateRule) -> Status:
    if mean.low is None or mean.high is None:
        return Status.INCONCLUSIVE
    line = -rule.max_degradation
    return _side(mean.low > line, mean.high < line)


def _against_floor(own: GoldenMean | None, rule: GateRule) -> Status:
    if own is None or rule.min_score is None:
        return Status.PASS
    if own.low is None or own.high is None:
        return Status.INCONCLUSIVE
    return _side(own.low >= rule.min_score, own.high < rule.min_score)


def _side(above: bool, below: bool) -> Status:
    return Status.PASS if above else Status.FAIL if below else Status.INCONCLUSIVE


def _joint(statuses: set[Status]) -> Status:
    """What must all pass: the worst, where not knowing lies between."""
    return next(status for status in (Status.FAIL, Status.INCONCLUSIVE, Status.PASS) if status in statuses)


def _rows(mean: GoldenMean, own: GoldenMean | None, rule: GateRule, n: int) -> int | None:
    """Rows that decide all that is open; None where one of them has no number."""
    needed: list[int | None] = []
    if _against_margin(mean, rule) is Status.INCONCLUSIVE:
        needed.append(mean.rows_to_clear(-rule.max_degradation))
    if own is not None and rule.min_score is not None and _against_floor(own, rule) is Status.INCONCLUSIVE:
        needed.append(own.rows_to_clear(rule.min_score))
    known = [rows for rows in needed if rows is not None]
    return max(n + 1, *known) if len(known) == len(needed) else None


def _reason(status: Status, mean: GoldenMean, own: GoldenMean | None, rule: GateRule, n: int, rows: int | None) -> str:
    sure = f"{100 * (1 - rule.alpha):.7g} %"
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
