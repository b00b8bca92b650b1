"""Numbers as readers see them."""

import pytest

from distill_dagster.evaluation import formatting
from distill_dagster.evaluation.statistics import Estimate, Method


@pytest.mark.parametrize(
    ("value", "signed", "expected"),
    [
        (None, False, "–"),
        (float("nan"), False, "–"),
        (0.0, True, "0.000"),
        (-0.0001, True, "0.000"),
        (-1.5, False, "−1.500"),
        (1.5, True, "+1.500"),
        (1234.5, False, "1,234.500"),
    ],
)
def test_numbers(value: float | None, signed: bool, expected: str) -> None:
    assert formatting.number(value, 3, signed=signed) == expected


def test_shares_are_percent_and_their_differences_points() -> None:
    assert formatting.quantity(0.712, "share") == "71.2\N{NO-BREAK SPACE}%"
    assert formatting.quantity(0.123, "share", signed=True) == "+12.3\N{NO-BREAK SPACE}pp"
    assert formatting.quantity(None, "share") == "–"


def test_an_interval_that_does_not_exist_is_a_dash() -> None:
    estimate = Estimate(0.5, None, None, 1, 1, Method.TOO_FEW_CLUSTERS)

    assert formatting.interval(estimate, "score") == "–"
    assert formatting.rows_in_groups(estimate).replace("\N{NO-BREAK SPACE}", " ") == "n = 1 row in 1 group"


def test_sizes() -> None:
    assert formatting.size(269_060_552) == "256.6\N{NO-BREAK SPACE}MiB"
    assert formatting.parameters(134_515_008) == "134.5\N{NO-BREAK SPACE}M"
    assert formatting.size(None) == formatting.parameters(None) == "–"
