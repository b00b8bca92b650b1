"""Holm against statsmodels, and what the shares of alpha sum to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from distill_dagster.evaluation.multiplicity import alpha_of_look, holm


@pytest.mark.parametrize(
    "p_values",
    [
        [0.3],
        [0.2, 0.2, 0.2, 0.01],
        [0.0, 1.0, 0.5],
        [0.011, 0.02, 0.9, 0.013, 0.04, 0.012, 0.6, 0.001],
    ],
)
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_claims_what_bonferroni_does_in_the_order_of_the_p_values(p_values: list[float]) -> None:
    adjusted = holm(p_values)

    assert all(p <= holms <= min(1.0, len(p_values) * p) for p, holms in zip(p_values, adjusted, strict=True))
    assert [a for _, a in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_p_values_lie_between_0_and_1(p: float) -> None:
    with pytest.raises(ValueError, match="p-values"):
        holm([0.5, p])


@pytest.mark.parametrize("candidates", [1, 3, 10])
def test_all_looks_at_all_candidates_spend_at_most_alpha(candidates: int) -> None:
    spent = sum(candidates * alpha_of_look(0.05, look, candidates) for look in range(1, 60))

    assert spent == pytest.approx(0.05)
    assert alpha_of_look(0.05, 1, 10) == pytest.approx(0.0025)


def test_so_many_looks_that_nothing_is_left_are_no_overflow() -> None:
    assert alpha_of_look(0.05, 5_000, 1) == 0


@pytest.mark.parametrize(("alpha", "look", "candidates"), [(0.0, 1, 1), (1.0, 1, 1), (0.05, 0, 1), (0.05, 1, 0)])
def test_looks_and_candidates_count_from_1(alpha: float, look: int, candidates: int) -> None:
    with pytest.raises(ValueError, match="from 1"):
        alpha_of_look(alpha, look, candidates)
