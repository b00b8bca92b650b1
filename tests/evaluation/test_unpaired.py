"""Differences of two sets of rows that share nothing, against scipy where each row is a group of its own."""

import numpy as np
import pytest
import scipy.stats

from distill_dagster.evaluation.label_f1 import macro_f1
from distill_dagster.evaluation.statistics import (
    EXPONENTIAL,
    Estimate,
    Floats,
    Method,
    mean_estimate,
    perplexity_estimate,
)
from distill_dagster.evaluation.unpaired import Side, difference_of, unpaired_difference


def side(values: Floats, name: str, each: int = 1) -> Side:
    """Rows of a mean, `each` of them a group."""
    return Side([(values, np.ones_like(values))], [f"{name}{row // each}" for row in range(len(values))])


def ends(estimate: Estimate) -> tuple[float, float]:
    assert estimate.interval is not None
    return estimate.interval


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_with_a_row_a_group_it_is_welchs_interval(confidence: float) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 0.2, 9), rng.normal(0.5, 0.05, 40)

    found = unpaired_difference(side(a, "a"), side(b, "b"), confidence, 17)

    welch = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(confidence)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert ends(found) == pytest.approx((welch.low, welch.high))
    assert (found.method, found.n, found.n_clusters) == (Method.WELCH_T, 49, 49)


def test_rows_of_a_group_count_once() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=8), rng.normal(size=12)

    once = unpaired_difference(side(a, "a"), side(b, "b"), 0.95, 17)
    five = unpaired_difference(side(np.repeat(a, 5), "a", 5), side(b, "b"), 0.95, 17)

    assert ends(five) == pytest.approx(ends(once))
    assert (five.n, five.n_clusters) == (52, 20)


def test_many_groups_are_resampled_apart() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.4, 0.1, 80), rng.normal(0.5, 0.1, 200)

    found = unpaired_difference(side(a, "a"), side(b, "b"), 0.95, 17)

    welch = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert found.method == Method.CLUSTER_BOOTSTRAP
    assert ends(found) == pytest.approx((welch.low, welch.high), abs=0.001)
    assert found == unpaired_difference(side(a, "a"), side(b, "b"), 0.95, 17)


def test_a_rate_and_the_change_of_a_difference() -> None:
    """Hits over tokens; a second term is the other system's, on the same rows."""
    hits, tokens = np.array([2.0, 3.0, 9.0]), np.array([4.0, 4.0, 10.0])
    other = np.array([1.0, 1.0, 5.0])

    def rates(top: Floats, name: str) -> Side:
        return Side([(top, tokens), (other, tokens)], [f"{name}{row}" for row in range(3)])

    found = unpaired_difference(rates(hits, "a"), rates(hits[::-1], "b"), 0.95, 17)
    same = unpaired_difference(rates(hits, "a"), rates(hits, "b"), 0.95, 17)

    assert found.value == pytest.approx(0.0)  # both come to 14 / 18 - 7 / 18
    assert ends(found)[1] > ends(same)[1] > 0


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_resampled_apart_it_reaches_as_far_as_welchs_interval(confidence: float) -> None:
    rng = np.random.default_rng(4)
    shares = []
    for _ in range(20):
        a, b = rng.normal(0, 0.3, 50), rng.normal(0, 0.1, 80)
        low, high = ends(unpaired_difference(side(a, "a"), side(b, "b"), confidence, 17))
        welch = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(confidence)
        shares.append((high - low) / (welch.high - welch.low))

    assert np.mean(shares) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("groups", [5, 12])
def test_the_interval_covers_what_it_says(groups: int) -> None:
    """Groups of four rows that share half of their variance, of unequal spread; 400 draws at 90 %."""
    rng = np.random.default_rng(groups)

    def draw(count: int, spread: float) -> Floats:
        shared = np.repeat(rng.normal(0, spread, count), 4)
        return np.asarray(shared + rng.normal(0, spread, 4 * count))

    covered = 0
    for _ in range(400):
        a, b = side(draw(groups, 0.3), "a", 4), side(draw(30, 0.1), "b", 4)
        low, high = ends(unpaired_difference(a, b, 0.9, 17))
        covered += low <= 0 <= high

    assert 0.86 <= covered / 400 <= 0.96


@pytest.mark.parametrize(
    ("a", "b", "method"),
    [
        ([0.5], [0.1, 0.2, 0.3], Method.TOO_FEW_CLUSTERS),
        ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3], Method.NO_VARIANCE),
        ([0.5] * 60, list(np.linspace(0, 1, 60)), Method.NO_VARIANCE),
        ([np.nan, 0.5], [0.1, 0.2], Method.NOT_FINITE),
        ([], [0.1, 0.2], Method.NO_DATA),
    ],
)
def test_where_nothing_can_be_said_there_is_no_interval(a: list[float], b: list[float], method: Method) -> None:
    found = unpaired_difference(side(np.array(a), "a"), side(np.array(b), "b"), 0.95, 17)

    assert (found.method, found.interval) == (method, None)
    assert (found.value is None) == (method in (Method.NOT_FINITE, Method.NO_DATA))


@pytest.mark.parametrize("groups", [20, 60])
def test_perplexities_are_compared_as_such(groups: int) -> None:
    rng = np.random.default_rng(21)
    tokens = rng.integers(5, 40, (2, groups)).astype(float)
    nats = tokens * rng.gamma(20, [[0.05], [0.06]], (2, groups))
    a, b = (Side([(nats[i], tokens[i])], [f"{i}-{g}" for g in range(groups)]) for i in (0, 1))
    alone = [perplexity_estimate(nats[i], tokens[i], range(groups)) for i in (0, 1)]

    estimate = unpaired_difference(a, b, 0.95, 17, EXPONENTIAL)

    assert estimate.value == pytest.approx(alone[0].value - alone[1].value)
    widths = [high - low for low, high in map(ends, alone)]
    low, high = ends(estimate)
    assert high - low == pytest.approx(np.hypot(*widths), rel=0.08)


def test_a_group_on_both_sides_is_an_error() -> None:
    values = np.array([0.1, 0.2])

    with pytest.raises(ValueError, match="a group is on both sides"):
        unpaired_difference(side(values, "a"), side(values, "a"), 0.95, 17)


def test_two_estimates_with_t_intervals_differ_as_their_rows_do() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=9), rng.normal(size=14)
    estimates = [mean_estimate(values, list(range(len(values)))) for values in (a, b)]

    found = difference_of(*estimates)

    by_rows = unpaired_difference(side(a, "a"), side(b, "b"), 0.95, 17)
    assert ends(found) == pytest.approx(ends(by_rows))
    assert (found.n, found.n_clusters, found.method) == (23, 23, Method.WELCH_T)


def test_an_estimate_that_is_undefined_or_constant_leaves_no_interval() -> None:
    known = macro_f1(["a", "b", "a"], ["a", "a", "b"], ["1", "2", "3"], 0.95)
    constant = macro_f1(["a", "a"], ["a", "a"], ["4", "5"], 0.95)

    assert difference_of(known, macro_f1([], [], [], 0.95)).value is None
    without = difference_of(known, constant)
    assert (without.interval, without.method) == (None, Method.NO_VARIANCE)
    assert without.value == pytest.approx((known.value or 0) - 1)
