"""Means, rates and paired differences with intervals that respect clusters of related rows.

Rows of one group are not independent, so whole groups are resampled (bootstrap) or make up the degrees of
freedom (t). The bootstrap's ends are expanded percentiles, which cover as often as t does where values are normal.
Every statistic here is a ratio of sums over rows, or a difference of two: a mean is Σx/Σ1, a rate per token
Σhits/Σtokens, a perplexity the exponential of Σnats/Σtokens. What is undefined is None, never 0.

Sources: Cameron & Miller, "A Practitioner's Guide to Cluster-Robust Inference" (2015); Miller, "Adding Error
Bars to Evals" (2024); Cochran, "Sampling Techniques" (1977), section 6 for the linearised variance of a ratio;
Hesterberg, "What Teachers Should Know About the Bootstrap" (The American Statistician, 2015) for expanded percentiles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

BOOTSTRAP_MIN_CLUSTERS = 50
BOOTSTRAP_RESAMPLES = 10_000
DEFAULT_CONFIDENCE = 0.95
DEFAULT_SEED = 17
_DRAWS_AT_ONCE = 4_000_000

Floats: TypeAlias = npt.NDArray[np.float64]
Values: TypeAlias = Sequence[float] | Floats
Clusters: TypeAlias = Sequence[str] | Sequence[int] | npt.NDArray[np.int64] | npt.NDArray[np.str_]


class Method(StrEnum):
    """How an interval was found, or why there is none."""

    CLUSTER_BOOTSTRAP = "cluster_bootstrap"
    CLUSTER_T = "cluster_t"
    WELCH_T = "welch_t"
    TOO_FEW_CLUSTERS = "too_few_clusters"
    NO_VARIANCE = "no_variance"
    NOT_FINITE = "not_finite"
    NO_DATA = "no_data"
    NO_ROW_SCORES = "no_row_scores"


@dataclass(frozen=True)
class Estimate:
    """A number with what it rests on.

    Attributes:
        value: the estimate; None where it is undefined.
        low, high: ends of the two-sided interval; None where there is none (`method` says why).
        n: rows behind it.
        n_clusters: groups of rows behind it.
        method: how the interval was found.
        confidence: coverage the interval aims at.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_clusters: int
    method: Method
    confidence: float = DEFAULT_CONFIDENCE

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), or None where there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Curve:
    """What a ratio goes through, and its slope, by which an error is carried over (delta method)."""

    at: Callable[[Floats], Floats]
    slope: Callable[[Floats], Floats]


STRAIGHT = Curve(at=lambda ratio: ratio, slope=np.ones_like)
EXPONENTIAL = Curve(at=np.exp, slope=np.exp)


@dataclass(frozen=True)
class _Ratio:
    """Sums per cluster, each of shape (clusters,), of one ratio Σnumerator/Σdenominator."""

    numerators: Floats
    denominators: Floats

    @property
    def value(self) -> float:
        return float(self.numerators.sum() / self.denominators.sum())


def mean_estimate(
    values: Values, clusters: Clusters, confidence: float = DEFAULT_CONFIDENCE, seed: int = DEFAULT_SEED
) -> Estimate:
    """Mean over rows (not over clusters) of `values`, shape (n,), with a cluster interval."""
    x = _floats(values)
    return _estimate([(x, np.ones_like(x))], clusters, confidence, seed)


def paired_difference(
    a: Values, b: Values, clusters: Clusters, confidence: float = DEFAULT_CONFIDENCE, seed: int = DEFAULT_SEED
) -> Estimate:
    """Mean of a - b over rows that both systems answered, `a[i]` and `b[i]` on the same row.

    Raises:
        ValueError: lengths differ, or a cluster id is missing.
    """
    x, y = _floats(a), _floats(b)
    if x.shape != y.shape:
        raise ValueError(f"paired values must be on the same rows (seen: {len(x)} and {len(y)} values)")
    return mean_estimate(x - y, clusters, confidence, seed)


def ratio_estimate(
    numerators: Values,
    denominators: Values,
    clusters: Clusters,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = DEFAULT_SEED,
) -> Estimate:
    """Σnumerators/Σdenominators over rows: a micro-average, such as nats or hits per token.

    Raises:
        ValueError: lengths differ, a denominator is negative, or a cluster id is missing.
    """
    return _estimate([(_floats(numerators), _floats(denominators))], clusters, confidence, seed)


def paired_ratio_difference(
    numerators_a: Values,
    denominators_a: Values,
    numerators_b: Values,
    denominators_b: Values,
    clusters: Clusters,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = DEFAULT_SEED,
) -> Estimate:
    """Difference of two micro-averages over the same rows, resampled together.

    Raises:
        ValueError: lengths differ, a denominator is negative, or a cluster id is missing.
    """
    a = (_floats(numerators_a), _floats(denominators_a))
    b = (_floats(numerators_b), _floats(denominators_b))
    return _estimate([a, b], clusters, confidence, seed)


def expanded_tail(confidence: float, freedom: float, narrowness: float) -> float:
    """The share of resamples that a bootstrap interval leaves out at each end.

    Plain percentiles lie too close together: G groups drawn from themselves vary by (G - 1)/G of the unbiased variance,
    and their tails are the normal's where t's are due. With 50 groups 95 % intervals would cover 94.2 % of the time.

    Args:
        freedom: degrees of freedom of the t that is due.
        narrowness: the unbiased variance of the statistic over the variance of its replicates, G/(G - 1).
    """
    return float(ndtr(-np.sqrt(narrowness) * stdtrit(freedom, (1 + confidence) / 2)))


def perplexity_estimate(
    nats: Values,
    tokens: Values,
    clusters: Clusters,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = DEFAULT_SEED,
) -> Estimate:
    """exp(Σnats/Σtokens) over rows; the ends of its interval are those of the mean, exponentiated.

    Raises:
        ValueError: lengths differ, a number of tokens is negative, or a cluster id is missing.
    """
    mean = ratio_estimate(nats, tokens, clusters, confidence, seed)

    def exp(value: float | None) -> float | None:
        return None if value is None else float(np.exp(value))

    return replace(mean, value=exp(mean.value), low=exp(mean.low), high=exp(mean.high))


def paired_perplexity_difference(
    nats_a: Values,
    tokens_a: Values,
    nats_b: Values,
    tokens_b: Values,
    clusters: Clusters,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = DEFAULT_SEED,
) -> Estimate:
    """Difference of two perplexities over the same rows, resampled together; the t interval is by the delta method.

    Raises:
        ValueError: lengths differ, a number of tokens is negative, or a cluster id is missing.
    """
    a, b = (_floats(nats_a), _floats(tokens_a)), (_floats(nats_b), _floats(tokens_b))
    return _estimate([a, b], clusters, confidence, seed, EXPONENTIAL)


def _estimate(
    terms: list[tuple[Floats, Floats]], clusters: Clusters, confidence: float, seed: int, curve: Curve = STRAIGHT
) -> Estimate:
    """The first ratio, minus the second where there are two; each on the curve."""
    labels = _labels(clusters)
    _check(terms, labels)
    n_clusters = int(labels.max()) + 1 if len(labels) else 0

    def result(value: float | None, interval: tuple[float, float] | None, method: Method) -> Estimate:
        low, high = interval or (None, None)
        return Estimate(value, low, high, len(labels), n_clusters, method, confidence)

    if not all(np.isfinite(column).all() for term in terms for column in term):
        return result(None, None, Method.NOT_FINITE)
    if any(denominators.sum() == 0 for _, denominators in terms):
        return result(None, None, Method.NO_DATA)
    ratios = [_Ratio(_sums(top, labels), _sums(bottom, labels)) for top, bottom in terms]
    points = [float(curve.at(np.asarray(r.value))) for r in ratios]
    value = points[0] - (points[1] if len(points) > 1 else 0.0)
    if n_clusters < 2:
        return result(value, None, Method.TOO_FEW_CLUSTERS)
    influence = _influence(ratios, curve)
    if np.allclose(influence, 0, rtol=0, atol=1e-12 * max(1.0, abs(value))):
        return result(value, None, Method.NO_VARIANCE)
    if n_clusters < BOOTSTRAP_MIN_CLUSTERS:
        return result(value, _t_interval(value, influence, confidence), Method.CLUSTER_T)
    interval = _bootstrap_interval(ratios, confidence, np.random.default_rng(seed), curve)
    if interval is None:
        return result(value, None, Method.NO_DATA)
    return result(value, interval, Method.CLUSTER_BOOTSTRAP)


def _influence(ratios: list[_Ratio], curve: Curve) -> Floats:
    """What each cluster adds to the statistic's error, shape (clusters,): the linearised ratio, summed to zero."""
    parts = [
        curve.slope(np.asarray(r.value)) * (r.numerators - r.value * r.denominators) / r.denominators.sum()
        for r in ratios
    ]
    return cast(Floats, parts[0] - parts[1] if len(parts) > 1 else parts[0])


def _t_interval(value: float, influence: Floats, confidence: float) -> tuple[float, float]:
    """Cluster-robust t interval with G - 1 degrees of freedom; with one row a cluster it is Student's."""
    n_clusters = len(influence)
    error = float(np.sqrt(n_clusters / (n_clusters - 1) * np.square(influence).sum()))
    reach = float(stdtrit(n_clusters - 1, (1 + confidence) / 2)) * error
    return value - reach, value + reach


def _bootstrap_interval(
    ratios: list[_Ratio], confidence: float, rng: np.random.Generator, curve: Curve
) -> tuple[float, float] | None:
    """Expanded percentiles over resampled clusters; None where a resample may have nothing to divide by."""
    n_clusters = len(ratios[0].numerators)
    step = max(1, _DRAWS_AT_ONCE // n_clusters)
    replicates: list[Floats] = []
    for start in range(0, BOOTSTRAP_RESAMPLES, step):
        size = (min(step, BOOTSTRAP_RESAMPLES - start), n_clusters)
        drawn = rng.integers(0, n_clusters, size=size)
        bottoms = [r.denominators[drawn].sum(axis=1) for r in ratios]
        if any((bottom == 0).any() for bottom in bottoms):
            return None
        values = [curve.at(r.numerators[drawn].sum(axis=1) / b) for r, b in zip(ratios, bottoms, strict=True)]
        replicates.append(values[0] - values[1] if len(values) > 1 else values[0])
    tail = expanded_tail(confidence, n_clusters - 1, n_clusters / (n_clusters - 1))
    low, high = np.quantile(np.concatenate(replicates), [tail, 1 - tail])
    return float(low), float(high)


def _floats(values: Values) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _labels(clusters: Clusters) -> npt.NDArray[np.int64]:
    """Cluster ids as 0…G-1 in sorted order, so that the order of rows does not choose the resamples."""
    if any(cluster is None for cluster in clusters):
        raise ValueError("a row has no cluster id; give every row the id of its group")
    _, labels = np.unique(np.asarray(clusters), return_inverse=True)
    return labels.astype(np.int64)


def _check(terms: list[tuple[Floats, Floats]], labels: npt.NDArray[np.int64]) -> None:
    for column in (column for term in terms for column in term):
        if column.shape != labels.shape:
            raise ValueError(f"one value a row and one cluster id a row (seen: {len(column)} and {len(labels)})")
    if any((denominators < 0).any() for _, denominators in terms):
        raise ValueError("a denominator is negative")


def _sums(column: Floats, labels: npt.NDArray[np.int64]) -> Floats:
    return np.bincount(labels, weights=column).astype(np.float64)
