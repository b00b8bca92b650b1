"""The same statistic on two sets of rows that share no group, and the difference of the two.

Nothing pairs the rows of one set with those of the other, so each has its own error and the two add up. With 50 groups
or more on both sides the groups of each are resampled apart, and the ends are percentiles expanded to the reach of
Welch's t; below, the interval is Welch's t over groups.

Sources: Welch, "The generalization of Student's problem when several different population variances are involved"
(Biometrika, 1947); Cochran, "Sampling Techniques" (1977), section 6 for the linearised variance of a ratio.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.special import stdtrit

from distill_dagster.evaluation.statistics import (
    BOOTSTRAP_MIN_CLUSTERS,
    BOOTSTRAP_RESAMPLES,
    STRAIGHT,
    Curve,
    Estimate,
    Floats,
    Method,
    expanded_tail,
)

_DRAWS_AT_ONCE = 4_000_000
Term: TypeAlias = tuple[Floats, Floats]
"""Numerators and denominators, one of each a row or a group."""


@dataclass(frozen=True)
class Side:
    """One set of rows.

    Attributes:
        terms: the statistic is the ratio of the sums of a term, less that of a second term where there are two.
        clusters: the group of each row.
    """

    terms: Sequence[Term]
    clusters: Sequence[str]


@dataclass(frozen=True)
class _Spread:
    """A side's value and the variance of its error, which rests on so many groups."""

    value: float
    variance: float
    groups: int


def unpaired_difference(a: Side, b: Side, confidence: float, seed: int, curve: Curve = STRAIGHT) -> Estimate:
    """The statistic on `a` less that on `b`; n and groups are those of both sides.

    There is no interval where a side has fewer than two groups, or the same value in every group.

    Args:
        curve: what each ratio goes through.

    Raises:
        ValueError: a group is on both sides.
    """
    groups = [np.unique(np.asarray(side.clusters)) for side in (a, b)]
    if set(a.clusters) & set(b.clusters):
        raise ValueError("a group is on both sides; they have to share none")
    n, n_groups = len(a.clusters) + len(b.clusters), sum(map(len, groups))

    def result(value: float | None, interval: tuple[float, float] | None, method: Method) -> Estimate:
        low, high = interval or (None, None)
        return Estimate(value, low, high, n, n_groups, method, confidence)

    if not all(np.isfinite(column).all() for side in (a, b) for term in side.terms for column in term):
        return result(None, None, Method.NOT_FINITE)
    if any(bottom.sum() == 0 for side in (a, b) for _, bottom in side.terms):
        return result(None, None, Method.NO_DATA)
    sums = [_by_group(side) for side in (a, b)]
    left, right = (_spread(one, curve) for one in sums)
    value = left.value - right.value
    if min(map(len, groups)) < BOOTSTRAP_MIN_CLUSTERS or _is_constant(left, right):
        return result(value, *_welch(left, right, confidence))
    rng = np.random.default_rng(seed)
    replicates = [_replicates(one, rng, curve) for one in sums]
    if replicates[0] is None or replicates[1] is None:
        return result(value, None, Method.NO_DATA)
    replicated = sum(side.variance * (side.groups - 1) / side.groups for side in (left, right))
    tail = expanded_tail(confidence, _freedom(left, right), (left.variance + right.variance) / replicated)
    low, high = np.quantile(replicates[0] - replicates[1], [tail, 1 - tail])
    return result(value, (float(low), float(high)), Method.CLUSTER_BOOTSTRAP)


def difference_of(a: Estimate, b: Estimate) -> Estimate:
    """The difference of two estimates as if they shared no group, from the reach of their intervals.

    n and groups are those of both sides. Where rows are shared after all and are answered alike, it is wider than the
    paired difference's interval.
    """
    n, n_groups = a.n + b.n, a.n_clusters + b.n_clusters
    if a.value is None or b.value is None:
        return Estimate(None, None, None, n, n_groups, Method.NO_DATA, a.confidence)
    interval, method = _welch(_spread_of(a, a.value), _spread_of(b, b.value), a.confidence)
    low, high = interval or (None, None)
    return Estimate(a.value - b.value, low, high, n, n_groups, method, a.confidence)


def _by_group(side: Side) -> list[Term]:
    """Each term's sums per group, shape (groups,)."""
    _, labels = np.unique(np.asarray(side.clusters), return_inverse=True)

    def sums(column: Floats) -> Floats:
        return np.bincount(labels, weights=column).astype(np.float64)

    return [(sums(top), sums(bottom)) for top, bottom in side.terms]


def _spread(sums: Sequence[Term], curve: Curve) -> _Spread:
    """Of a ratio or a difference of two, linearised: the groups' influences sum to zero."""
    ratios = [top.sum() / bottom.sum() for top, bottom in sums]
    influences = [
        curve.slope(ratio) * (top - ratio * bottom) / bottom.sum()
        for (top, bottom), ratio in zip(sums, ratios, strict=True)
    ]
    influence = influences[0] - influences[1] if len(sums) > 1 else influences[0]
    groups = len(influence)
    correction = groups / (groups - 1) if groups > 1 else 0.0
    points = [float(curve.at(ratio)) for ratio in ratios]
    value = points[0] - points[1] if len(sums) > 1 else points[0]
    return _Spread(value, float(correction * np.square(influence).sum()), groups)


def _spread_of(estimate: Estimate, value: float) -> _Spread:
    """From half the width of its interval, which is t times its error; one without has no known variance."""
    groups = estimate.n_clusters
    if estimate.low is None or estimate.high is None:
        return _Spread(value, 0.0, groups)
    error = (estimate.high - estimate.low) / 2 / float(stdtrit(groups - 1, (1 + estimate.confidence) / 2))
    return _Spread(value, error**2, groups)


def _is_constant(*sides: _Spread) -> bool:
    return any(side.variance <= (1e-12 * max(1.0, abs(side.value))) ** 2 for side in sides)


def _welch(a: _Spread, b: _Spread, confidence: float) -> tuple[tuple[float, float] | None, Method]:
    if min(a.groups, b.groups) < 2:
        return None, Method.TOO_FEW_CLUSTERS
    if _is_constant(a, b):
        return None, Method.NO_VARIANCE
    reach = float(stdtrit(_freedom(a, b), (1 + confidence) / 2) * np.sqrt(a.variance + b.variance))
    value = a.value - b.value
    return (value - reach, value + reach), Method.WELCH_T


def _freedom(a: _Spread, b: _Spread) -> float:
    """Welch and Satterthwaite's degrees of freedom."""
    parts = a.variance**2 / (a.groups - 1) + b.variance**2 / (b.groups - 1)
    return float((a.variance + b.variance) ** 2 / parts)


def _replicates(sums: Sequence[Term], rng: np.random.Generator, curve: Curve) -> Floats | None:
    """The statistic on resampled groups, shape (resamples,); None where a resample may have nothing to divide by."""
    groups = len(sums[0][0])
    step = max(1, _DRAWS_AT_ONCE // groups)
    found: list[Floats] = []
    for start in range(0, BOOTSTRAP_RESAMPLES, step):
        drawn = rng.integers(0, groups, size=(min(step, BOOTSTRAP_RESAMPLES - start), groups))
        bottoms = [bottom[drawn].sum(axis=1) for _, bottom in sums]
        if any((bottom == 0).any() for bottom in bottoms):
            return None
        ratios = [curve.at(top[drawn].sum(axis=1) / bottom) for (top, _), bottom in zip(sums, bottoms, strict=True)]
        found.append(ratios[0] - ratios[1] if len(ratios) > 1 else ratios[0])
    return np.concatenate(found)
