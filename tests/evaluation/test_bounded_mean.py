"""The bound of a bounded mean against Clopper and Pearson, against drawn weights, and against Student's t."""

import numpy as np
import pytest
from scipy import stats

from distill_dagster.evaluation.bounded_mean import ClusterSums, cluster_bounds, worst_case_lower


def _rows(values: np.ndarray) -> ClusterSums:
    return ClusterSums.of(values, np.arange(len(values)))


@pytest.mark.parametrize(("n", "lost"), [(2, 0), (20, 0), (20, 3), (50, 2), (300, 20)])
@pytest.mark.parametrize("alpha", [0.05, 0.005, 0.00005])
def test_for_yes_no_values_it_is_clopper_pearson(n: int, lost: int, alpha: float) -> None:
    exact = -stats.binomtest(lost, n).proportion_ci(1 - 2 * alpha, "exact").high

    bound = worst_case_lower(_rows(-(np.arange(n) < lost).astype(float)), -1, alpha)

    assert bound == pytest.approx(exact, rel=0.01)
    assert bound <= exact


def test_it_is_the_quantile_over_random_weights_with_one_unseen_worst_cluster() -> None:
    rng = np.random.default_rng(0)
    data = ClusterSums(rng.normal(0, 1, 12), rng.integers(1, 6, 12).astype(float))
    weights = rng.exponential(size=(400_000, 13))
    sums, sizes = np.append(data.sums, -data.sizes.max()), np.append(data.sizes, data.sizes.max())
    drawn = np.quantile(weights @ sums / (weights @ sizes), 0.05)

    assert worst_case_lower(data, -1, 0.05) == pytest.approx(drawn, abs=0.003)


def test_bounds_are_never_inside_students_t() -> None:
    values = np.random.default_rng(1).normal(0, 0.2, 300).clip(-1, 1)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)

    low, high = cluster_bounds(_rows(values), -1, 1, 0.05)

    assert low <= expected.low <= expected.high <= high
    assert expected.low - low < 0.01


def test_equal_rows_in_a_cluster_count_once() -> None:
    means = np.random.default_rng(2).normal(0, 0.2, 12)

    repeated = ClusterSums.of(np.repeat(means, 5), np.repeat(np.arange(12), 5))

    assert cluster_bounds(repeated, -1, 1, 0.05) == pytest.approx(cluster_bounds(_rows(means), -1, 1, 0.05), abs=1e-6)


def test_rows_of_the_least_value_stay_there() -> None:
    assert worst_case_lower(_rows(np.zeros(9)), 0, 0.05) == 0
    assert cluster_bounds(_rows(np.zeros(9)), 0, 1, 0.05)[0] == 0


def test_one_cluster_and_a_large_alpha_are_errors() -> None:
    with pytest.raises(ValueError, match="two of them"):
        cluster_bounds(_rows(np.zeros(1)), 0, 1, 0.05)
    with pytest.raises(ValueError, match="alpha"):
        cluster_bounds(_rows(np.zeros(5)), 0, 1, 0.5)
