"""Exact bounds against every table there is: counted, ordered and weighed without the code under test."""

from functools import cache

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from distill_dagster.evaluation.exact_bounds import exact_bounds
from distill_dagster.evaluation.proportions import tango_bounds


@cache
def _tables(n: int) -> list[tuple[int, int]]:
    return [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]


def _chances(n: int, won: float, lost: float) -> np.ndarray:
    """Of every table of n rows."""
    counts = np.array([(b, c, n - b - c) for b, c in _tables(n)])
    return stats.multinomial.pmf(counts, n, [won, lost, max(0.0, 1 - won - lost)])


@pytest.mark.parametrize("alpha", [0.05, 0.0025])
@pytest.mark.parametrize("n", [3, 10, 20])
def test_no_truth_is_missed_in_more_than_alpha_of_all_samples(n: int, alpha: float) -> None:
    bounds = np.array([exact_bounds(b, c, n, alpha) for b, c in _tables(n)])
    rates = [(won, lost) for won in np.linspace(0, 1, 41) for lost in np.linspace(0, 1, 41) if won + lost <= 1]

    missed = [
        (chances @ (bounds[:, 0] > won - lost), chances @ (bounds[:, 1] < won - lost))
        for won, lost in rates
        for chances in [_chances(n, won, lost)]
    ]

    assert np.max(missed) <= alpha + 1e-6
    assert np.max(missed) >= alpha / 2


def test_tangos_bounds_alone_do_miss_more() -> None:
    bounds = np.array([tango_bounds(b, c, 25, 0.05)[0] for b, c in _tables(25)])

    assert _chances(25, 0.0, 0.1) @ (bounds > -0.1) > 0.07


@pytest.mark.parametrize(("b", "c", "n"), [(0, 0, 29), (0, 3, 20), (2, 4, 12), (1, 0, 8), (5, 5, 14)])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_it_is_the_first_truth_whose_worst_chance_is_alpha(b: int, c: int, n: int, alpha: float) -> None:
    """Found with all tables in Tango's order, and the rate of disagreement searched in steps of 1/2000."""
    tango = np.array([tango_bounds(b, c, n, alpha)[0] for b, c in _tables(n)])
    seen = tango_bounds(b, c, n, alpha)[0]
    at_least = tango >= seen - 1e-8

    def excess(difference: float) -> float:
        rates = np.linspace(max(0.0, difference), (1 + difference) / 2, 2001)
        counts = np.array([(b, c, n - b - c) for b, c in np.array(_tables(n))[at_least]])
        worst = max(
            stats.multinomial.pmf(counts, n, [won, won - difference, max(0.0, 1 - 2 * won + difference)]).sum()
            for won in rates[:: 1 if n < 15 else 10]
        )
        return float(worst - alpha)

    expected = seen if excess(seen) <= 0 else brentq(excess, -1 + 1e-9, seen, xtol=1e-5)

    assert exact_bounds(b, c, n, alpha)[0] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("n", "lost"), [(29, 0), (20, 0), (40, 1)])
def test_where_the_student_only_loses_it_is_clopper_and_pearsons_or_wider(n: int, lost: int) -> None:
    exact = -stats.binomtest(lost, n).proportion_ci(0.9, "exact").high

    low, _ = exact_bounds(0, lost, n, 0.05)

    assert low <= exact + 1e-5
    assert low == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(("b", "c", "n"), [(9, 12, 300), (0, 20, 300), (100, 150, 5000)])
def test_it_is_tangos_bound_but_for_a_little(b: int, c: int, n: int) -> None:
    (low, high), (tango_low, tango_high) = exact_bounds(b, c, n, 0.05), tango_bounds(b, c, n, 0.05)

    assert low <= tango_low < tango_high <= high
    assert (high - low) / (tango_high - tango_low) < 1.1


def test_exchanging_the_systems_turns_the_bounds_round() -> None:
    low, high = exact_bounds(3, 7, 40, 0.05)

    assert exact_bounds(7, 3, 40, 0.05) == (-high, -low)


def test_the_scale_ends_at_one() -> None:
    assert exact_bounds(0, 5, 5, 0.05)[0] == -1
    assert exact_bounds(5, 0, 5, 0.05)[1] == 1


def test_impossible_counts_are_errors() -> None:
    with pytest.raises(ValueError, match="among the n rows"):
        exact_bounds(5, 6, 10, 0.05)
