"""Means over golden rows with one-sided bounds, each by the method that fits its values and groups."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from distill_dagster.evaluation.bounded_mean import ClusterSums, cluster_bounds
from distill_dagster.evaluation.exact_bounds import exact_bounds
from distill_dagster.evaluation.power import rows_to_decide
from distill_dagster.evaluation.proportions import proportion_bounds
from distill_dagster.evaluation.statistics import Clusters, Floats

_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class GoldenMean:
    """A mean with its one-sided bounds.

    Attributes:
        value: the mean over rows.
        low, high: bounds, each at `alpha`; None where the rows are no evidence.
        alpha: of each bound.
        method: how the bounds were found.
        least: the smallest value a row can have; the largest is 1.
        variance: of one row; effective where rows are in groups (n times the squared standard error).
        largest_group: rows.
    """

    value: float
    low: float | None
    high: float | None
    alpha: float
    method: Literal["tango", "cluster_t"]
    least: float
    variance: float
    largest_group: int

    def rows_to_clear(self, line: float) -> int | None:
        """About how many rows in all put a bound on one side of `line`; None where no number does."""
        if self.low is None:
            return None
        above = self.value > line
        farthest = self.least if above else 1.0
        unseen = abs(self.value - farthest) * self.largest_group
        return rows_to_decide(self.value - line, self.variance, unseen, self.alpha)


def difference_mean(student: Floats, teacher: Floats, clusters: Clusters, alpha: float) -> GoldenMean:
    """Mean of student - teacher; scores in [0, 1] and cluster ids of shape (n,), in at least two clusters."""
    differences = student - teacher
    yes_no = _yes_no(student) and _yes_no(teacher)
    if not (yes_no and _alone(clusters)):
        return _clustered(differences, clusters, -1.0, alpha, yes_no)
    b, c, n = int((differences > 0).sum()), int((differences < 0).sum()), len(differences)
    low, high = exact_bounds(b, c, n, alpha)
    return GoldenMean((b - c) / n, low, high, alpha, "tango", -1.0, float(differences.var()), 1)


def own_mean(student: Floats, clusters: Clusters, alpha: float) -> GoldenMean:
    """Mean of the student's scores in [0, 1]; scores and cluster ids of shape (n,), in at least two clusters."""
    yes_no = _yes_no(student)
    if not (yes_no and _alone(clusters)):
        return _clustered(student, clusters, 0.0, alpha, yes_no)
    low, high = proportion_bounds(int(student.sum()), len(student), alpha)
    return GoldenMean(float(student.mean()), low, high, alpha, "tango", 0.0, float(student.var()), 1)


def _clustered(values: Floats, clusters: Clusters, least: float, alpha: float, yes_no: bool) -> GoldenMean:
    """The mean of values in [least, 1]; equal in all clusters they are no evidence, unless the values are yes/no."""
    data = ClusterSums.of(values, clusters)
    evidence = yes_no or data.error > _NO_SPREAD
    low, high = cluster_bounds(data, least, 1.0, alpha) if evidence else (None, None)
    variance, largest = len(values) * data.error**2, int(data.sizes.max())
    return GoldenMean(data.mean, low, high, alpha, "cluster_t", least, variance, largest)


def _yes_no(values: Floats) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def _alone(clusters: Clusters) -> bool:
    """Whether every row is a cluster of its own."""
    return len(np.unique(np.asarray(clusters))) == len(clusters)
