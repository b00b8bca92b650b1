"""One-sided bounds of the mean of bounded values in clusters that hold where losses are rare and large.

Student's t needs the data to show their spread. Where a student loses seldom but much, a small sample often shows
none of it, and t passes it. The second bound therefore adds one unseen cluster with the worst value there is, and
takes the alpha quantile over random weights of the clusters: Gaffke, "Three test statistics for a nonparametric
one-sided hypothesis on the mean of a nonnegative variable" (2005); Learned-Miller & Thomas, "A New Confidence
Interval for the Mean of a Bounded Random Variable" (2019). For yes/no values it is Clopper and Pearson's bound; that
it holds for every distribution is a conjecture, so the simulations in the tests are what it rests on. Its quantile
is found by saddlepoint: Barndorff-Nielsen, "Inference on full or partial parameters based on the standardized
signed log likelihood ratio" (1986).
"""

from dataclasses import dataclass
from functools import cache
from math import log, sqrt

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from distill_dagster.evaluation.statistics import Clusters, Floats

_LARGEST_ALPHA = 0.1
_TOLERANCE = 1e-9
_PRECISION = 1e-7


@dataclass(frozen=True)
class ClusterSums:
    """Sums of values and numbers of rows, each of shape (clusters,)."""

    sums: Floats
    sizes: Floats

    @classmethod
    def of(cls, values: Floats, clusters: Clusters) -> "ClusterSums":
        """From one value and one cluster id a row, each of shape (n,)."""
        _, labels = np.unique(np.asarray(clusters), return_inverse=True)
        return cls(np.bincount(labels, values).astype(np.float64), np.bincount(labels).astype(np.float64))

    @property
    def mean(self) -> float:
        """Over rows, not over clusters."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def error(self) -> float:
        """Cluster-robust standard error of the mean; with one row a cluster the usual one."""
        n_clusters = len(self.sums)
        deviations = (self.sums - self.mean * self.sizes) / self.sizes.sum()
        return sqrt(n_clusters / (n_clusters - 1) * float(np.square(deviations).sum()))

    @property
    def negated(self) -> "ClusterSums":
        """The same rows with the sign of every value turned."""
        return ClusterSums(-self.sums, self.sizes)


def cluster_bounds(data: ClusterSums, least: float, most: float, alpha: float) -> tuple[float, float]:
    """Lower and upper bound of the mean, each at level alpha: the wider of cluster t and the bound described above.

    Args:
        data: at least two clusters.
        least: the smallest value a row can have.
        most: the largest value a row can have.
        alpha: of each bound.

    Raises:
        ValueError: fewer than two clusters, or alpha is not in (0, 0.1].
    """
    if len(data.sums) < 2:
        raise ValueError(f"an interval over clusters needs two of them (seen: {len(data.sums)})")
    if not 0 < alpha <= _LARGEST_ALPHA:
        raise ValueError(f"alpha of one bound lies in (0, {_LARGEST_ALPHA}] (seen: {alpha})")
    reach = float(stdtrit(len(data.sums) - 1, 1 - alpha)) * data.error
    low = min(data.mean - reach, worst_case_lower(data, least, alpha))
    high = max(data.mean + reach, -worst_case_lower(data.negated, -most, alpha))
    return max(low, least), min(high, most)


def worst_case_lower(data: ClusterSums, least: float, alpha: float) -> float:
    """Gaffke's lower bound of the mean; the unseen cluster has as many rows as the largest, each worth `least`."""
    sums = np.append(data.sums, least * data.sizes.max())
    sizes = np.append(data.sizes, data.sizes.max())
    spread = float(np.abs(sums - least * sizes).max())
    if spread < _TOLERANCE:
        return least
    mean = float(sums.sum() / sizes.sum())
    deviation = float(np.sqrt(np.square(sums - mean * sizes).sum()) / sizes.sum())
    z = float(ndtri(alpha))
    start, end = least + _TOLERANCE, mean - 1e-3 * deviation

    @cache  # the search asks for its ends again
    def excess(bound: float) -> float:
        return _normal_score(sums - bound * sizes) - z

    if end <= start or excess(start) >= 0:
        return least
    return float(brentq(excess, start, end, xtol=_PRECISION)) if excess(end) > 0 else end


def _normal_score(terms: Floats) -> float:
    """z with Φ(z) = P(Σ terms·E <= 0) for independent exponential E, where Σ terms > 0 and some term is negative."""
    pole = -1.0 / float(terms.min())

    def slope(tilt: float) -> float:  # times what keeps it finite at the pole
        return float((terms / (1 + tilt * terms)).sum()) * (1 - tilt / pole)

    end = pole * (1 - 1e-12)
    tilt = float(brentq(slope, 0.0, end, xtol=_TOLERANCE * pole)) if slope(end) < 0 else end
    tilted = 1 + tilt * terms
    root = -sqrt(max(2 * float(np.log(tilted).sum()), 1e-30))
    scale = -tilt * sqrt(float(np.square(terms / tilted).sum()))
    return root + log(scale / root) / root
