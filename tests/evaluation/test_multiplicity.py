"""Holm against statsmodels, and what the shares of alpha sum to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from distill_dagster.evaluation.multiplicity import alpha_of_look, holm


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


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


@pytest.mark.parametrize(("alpha", "look", "candidates"), [(0.0, 1, 1), (1.0, 1, 1), (0.05, 0, 1), (0.05, 1, 0)])
def test_looks_and_candidates_count_from_1(alpha: float, look: int, candidates: int) -> None:
    with pytest.raises(ValueError, match="from 1"):
        alpha_of_look(alpha, look, candidates)
