"""Which bounds a mean of golden rows has."""

import numpy as np
import pytest
from scipy import stats

from distill_dagster.evaluation.bounded_mean import ClusterSums, cluster_bounds
from distill_dagster.evaluation.exact_bounds import exact_bounds
from distill_dagster.evaluation.golden_means import difference_mean, own_mean

RIGHT, WRONG = np.ones(40), np.r_[np.zeros(4), np.ones(36)]
SCORES = np.linspace(0.3, 0.9, 40)


def test_yes_no_rows_alone_have_exact_bounds() -> None:
    mean = difference_mean(WRONG, RIGHT, range(40), 0.05)

    assert (mean.method, mean.value) == ("tango", pytest.approx(-0.1))
    assert (mean.low, mean.high) == exact_bounds(0, 4, 40, 0.05)


@pytest.mark.parametrize("student", [WRONG, SCORES])
def test_scores_and_rows_in_groups_have_bounds_over_groups(student: np.ndarray) -> None:
    groups = np.arange(40) // 4

    mean = difference_mean(student, RIGHT, groups, 0.05)

    assert (mean.method, mean.largest_group) == ("cluster_t", 4)
    assert (mean.low, mean.high) == cluster_bounds(ClusterSums.of(student - RIGHT, groups), -1, 1, 0.05)


def test_one_systems_yes_and_no_are_not_enough() -> None:
    assert difference_mean(WRONG, SCORES, range(40), 0.05).method == "cluster_t"


def test_an_own_score_of_yes_and_no_has_clopper_and_pearsons_bounds() -> None:
    expected = stats.binomtest(36, 40).proportion_ci(0.9, "exact")

    mean = own_mean(WRONG, range(40), 0.05)

    assert (mean.value, mean.low, mean.high) == pytest.approx((0.9, expected.low, expected.high))


def test_an_own_score_is_never_below_0() -> None:
    mean = own_mean(np.r_[0.01, np.zeros(39)], range(40), 0.05)

    assert mean.low == 0


def test_equal_scores_have_no_bounds_and_no_number_of_rows() -> None:
    mean = difference_mean(np.full(40, 0.5), np.full(40, 0.6), range(40), 0.05)

    assert (mean.value, mean.low, mean.high) == (pytest.approx(-0.1), None, None)
    assert mean.rows_to_clear(-0.3) is None


def test_a_larger_group_may_hide_more() -> None:
    alone = own_mean(np.repeat(SCORES, 2), np.arange(80), 0.05)
    paired = own_mean(np.repeat(SCORES, 2), np.arange(80) // 2, 0.05)

    rows = [mean.rows_to_clear(0.5) for mean in (alone, paired)]
    assert rows[0] is not None
    assert rows[1] is not None
    assert rows[1] == pytest.approx(2 * rows[0], abs=2)
