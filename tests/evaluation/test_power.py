"""Detectable differences and rows to a verdict, against known figures and by putting them back into the bound."""

from math import floor, log, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import NormalIndPower

from distill_dagster.evaluation.power import minimum_detectable_effect, rows_to_decide


@pytest.mark.parametrize(("variance", "n"), [(0.11, 959), (0.3, 2616)])
def test_three_points_at_80_percent_power(variance: float, n: int) -> None:
    assert minimum_detectable_effect(variance, n, 0.05) == pytest.approx(0.03, abs=1e-4)


def test_it_is_statsmodels_power_of_a_z_test() -> None:
    effect = minimum_detectable_effect(0.25, 400, 0.05, 0.9)

    assert effect is not None
    power = NormalIndPower(ddof=0).power(effect / sqrt(0.25), 400, 0.05, ratio=0)
    assert power == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize(("variance", "n"), [(None, 100), (0.0, 100), (0.2, 1)])
def test_without_evidence_no_effect_is_detectable(variance: float | None, n: int) -> None:
    assert minimum_detectable_effect(variance, n, 0.05) is None


@given(st.floats(0.01, 0.5), st.floats(0, 1), st.floats(0, 5), st.sampled_from([0.05, 0.0025]))
def test_the_bound_clears_the_line_at_these_rows_and_not_a_row_before(
    distance: float, variance: float, unseen: float, alpha: float
) -> None:
    rows = rows_to_decide(-distance, variance, unseen, alpha)

    def reach(n: int) -> float:
        exponential = stats.expon.isf(alpha) - 1
        return unseen + sqrt(stats.norm.isf(alpha) ** 2 * n * variance + (exponential * unseen) ** 2)

    assert rows is not None
    assert reach(rows) <= rows * distance * (1 + 1e-9)
    assert rows == 1 or reach(rows - 1) >= (rows - 1) * distance * (1 - 1e-9)


@pytest.mark.parametrize(("alpha", "margin"), [(0.05, 0.1), (0.05, 0.05), (0.0025, 0.1)])
def test_without_any_loss_it_is_nearly_the_number_of_rows_that_a_binomial_needs(alpha: float, margin: float) -> None:
    needed = log(alpha) / log(1 - margin)

    assert rows_to_decide(margin, 0.0, 1.0, alpha) == pytest.approx(needed, rel=0.06)


def test_with_nothing_unseen_it_is_the_sample_size_of_a_z_test() -> None:
    expected = (stats.norm.isf(0.05) * 0.3 / 0.02) ** 2

    assert rows_to_decide(0.02, 0.09, 0.0, 0.05) == floor(expected) + 1


def test_on_the_line_no_number_of_rows_decides() -> None:
    assert rows_to_decide(0.0, 0.2, 1.0, 0.05) is None


def test_impossible_inputs_are_errors() -> None:
    with pytest.raises(ValueError, match="alpha"):
        rows_to_decide(0.1, 0.1, 0.1, 0.0)
    with pytest.raises(ValueError, match="at most"):
        rows_to_decide(0.1, 0.1, 0.1, 0.2)
    with pytest.raises(ValueError, match="variance"):
        minimum_detectable_effect(-0.1, 10, 0.05)
    with pytest.raises(ValueError, match="power"):
        minimum_detectable_effect(0.1, 10, 0.05, 1.0)
