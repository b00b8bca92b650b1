"""Tango's bounds against published values and a brute-force score test; the others against scipy and statsmodels."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq, minimize_scalar
from scipy.special import xlogy
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from distill_dagster.evaluation.proportions import mcnemar_exact, proportion_bounds, score_variance, tango_bounds


@st.composite
def _tables(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(2, 300))
    b = draw(st.integers(0, n))
    return b, draw(st.integers(0, n - b)), n


def _brute_force_statistic(b: int, c: int, n: int, difference: float) -> float:
    """The score statistic with the likelihood maximised numerically under the assumed difference."""

    def loss(only_teacher: float) -> float:
        return -float(
            xlogy(b, only_teacher + difference)
            + xlogy(c, only_teacher)
            + xlogy(n - b - c, 1 - 2 * only_teacher - difference)
        )

    least, most = max(0.0, -difference), (1 - difference) / 2
    q = minimize_scalar(loss, bounds=(least, most), method="bounded", options={"xatol": 1e-12}).x
    return (b - c - n * difference) / sqrt(n * (2 * q + difference - difference**2))


@pytest.mark.parametrize(
    ("b", "c", "n", "alpha", "published"),
    [
        (9, 3, 32, 0.025, (-0.027, 0.390)),  # Tango 1998, section 6.2: sleeping difficulties (Karacan et al.)
        (1, 7, 21, 0.025, (-0.517, -0.026)),  # airway hyper-responsiveness (Bentur et al. 2009), R's ratesci
        (28, 25, 618, 0.05, (-0.0148, 0.0247)),  # R's PropCIs::scoreci.mp(25, 28, 618), 90 % two-sided
    ],
)
def test_published_intervals(b: int, c: int, n: int, alpha: float, published: tuple[float, float]) -> None:
    decimals = 4 if n > 100 else 3

    assert [round(bound, decimals) for bound in tango_bounds(b, c, n, alpha)] == list(published)


@pytest.mark.parametrize(("b", "c", "n"), [(12, 9, 40), (3, 9, 25), (1, 2, 44), (30, 55, 300), (2, 7, 20)])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_bounds_invert_the_score_test_with_the_likelihood_maximised_by_brute_force(
    b: int, c: int, n: int, alpha: float
) -> None:
    z = stats.norm.isf(alpha)
    observed = (b - c) / n
    expected = [
        brentq(lambda d, sign=sign: _brute_force_statistic(b, c, n, d) - sign * z, *ends)
        for sign, ends in ((1, (-0.99, observed)), (-1, (observed, 0.99)))
    ]

    assert tango_bounds(b, c, n, alpha) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("n", [10, 57, 300])
def test_without_disagreement_only_n_speaks(n: int) -> None:
    z2 = stats.norm.ppf(0.95) ** 2

    assert tango_bounds(0, 0, n, 0.05) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)))


@pytest.mark.parametrize("lost", [1, 4, 15, 20])
def test_where_the_student_only_loses_the_lower_bound_is_wilsons(lost: int) -> None:
    wilson = proportion_confint(lost, 20, alpha=0.1, method="wilson")[1]

    assert tango_bounds(0, lost, 20, 0.05)[0] == pytest.approx(-wilson)


@given(_tables())
def test_exchanging_the_systems_turns_the_bounds_round(table: tuple[int, int, int]) -> None:
    b, c, n = table
    low, high = tango_bounds(b, c, n, 0.05)

    assert -1 <= low <= (b - c) / n <= high <= 1
    assert tango_bounds(c, b, n, 0.05) == pytest.approx((-high, -low), abs=1e-8)


def test_false_passes_where_the_student_only_loses_by_enumeration() -> None:
    """What the docstring states: a discrete tail is not exactly alpha."""

    def worst(margin: float, alpha: float) -> float:
        rates = []
        for n in range(10, 301):
            lost = [c for c in range(int(n * margin) + 1) if tango_bounds(0, c, n, alpha)[0] > -margin]
            rates.append(float(stats.binom.cdf(max(lost), n, margin)) if lost else 0.0)
        return max(rates)

    assert worst(0.1, 0.05) == pytest.approx(0.072, abs=0.0005)
    assert worst(0.05, 0.05) == pytest.approx(0.069, abs=0.0005)
    assert worst(0.1, 0.005) <= 0.005


def test_the_variance_under_the_observed_difference_is_the_usual_one() -> None:
    b, c, n = 12, 9, 40

    assert float(score_variance(b, c, n, (b - c) / n)) == pytest.approx((b + c) / n - ((b - c) / n) ** 2)


@pytest.mark.parametrize(("b", "c", "n"), [(0, 0, 0), (-1, 2, 9), (5, 6, 10)])
def test_counts_that_are_not_of_n_rows_are_errors(b: int, c: int, n: int) -> None:
    with pytest.raises(ValueError, match="among the n rows"):
        tango_bounds(b, c, n, 0.05)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.95, float("nan")])
def test_alpha_is_between_0_and_a_half(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha of one bound"):
        tango_bounds(1, 2, 10, alpha)


@pytest.mark.parametrize(("right", "n"), [(0, 12), (12, 12), (1, 1), (7, 20), (290, 300)])
@pytest.mark.parametrize("alpha", [0.05, 0.0005])
def test_bounds_of_one_proportion_are_scipys_exact_ones(right: int, n: int, alpha: float) -> None:
    expected = stats.binomtest(right, n).proportion_ci(1 - 2 * alpha, "exact")

    assert proportion_bounds(right, n, alpha) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("b", "c"), [(1, 0), (3, 9), (40, 21), (7, 7)])
def test_mcnemar_is_statsmodels_exact_test(b: int, c: int) -> None:
    expected = mcnemar(np.array([[50, b], [c, 50]]), exact=True).pvalue

    assert mcnemar_exact(b, c) == pytest.approx(expected)


def test_mcnemar_without_disagreement_is_undefined() -> None:
    assert mcnemar_exact(0, 0) is None
