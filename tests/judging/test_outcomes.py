"""What two verdicts come to together."""

import polars as pl
import pytest

from distill_dagster.judging.outcomes import pair_outcomes
from distill_dagster.judging.pairs import JUDGED
from tests.judging.declared import pairs


def judged(*verdicts: tuple[str | None, str | None]) -> pl.DataFrame:
    """The verdicts of pairs p0, p1, …: with the student first, and with the other first."""
    rows = [
        (f"p{number}", 0, f"g{number}", "teacher", order, verdict, None if verdict else "unreadable", "key")
        for number, both in enumerate(verdicts)
        for order, verdict in zip(("student_first", "other_first"), both, strict=True)
    ]
    return pl.DataFrame(rows, schema=JUDGED, orient="row")


@pytest.mark.parametrize(
    ("student_first", "other_first", "outcome", "score"),
    [
        ("student", "student", "win", 1.0),
        ("other", "other", "loss", 0.0),
        ("tie", "tie", "tie", 0.5),
        ("student", "other", "flip", 0.5),
        ("other", "student", "flip", 0.5),
        ("tie", "student", "waver", 0.5),
        ("other", "tie", "waver", 0.5),
        (None, "student", "unusable", None),
        ("tie", None, "unusable", None),
        (None, None, "unusable", None),
    ],
)
def test_a_pair_is_decided_only_where_both_orders_agree(
    student_first: str | None, other_first: str | None, outcome: str, score: float | None
) -> None:
    found = pair_outcomes(judged((student_first, other_first)), pairs(("a", "b")))

    assert found.select("outcome", "score", "asked").rows() == [(outcome, score, True)]


def test_rows_follow_the_pairs_whatever_order_verdicts_come_in() -> None:
    said = judged(("student", "student"), ("other", "other"), ("tie", "tie"))
    given = pairs(("a", "b"), ("c", "d"), ("e", "f"))

    found = pair_outcomes(said.reverse(), given.reverse())

    assert found.select("prompt_id", "answer_student", "outcome").rows() == [
        ("p0", "a", "win"),
        ("p1", "c", "loss"),
        ("p2", "e", "tie"),
    ]


def test_a_verdict_that_is_missing_is_no_verdict_to_skip() -> None:
    said = judged(("student", "student"), ("other", "other"))

    for wrong in (said.head(3), said.head(2), pl.concat([said, said.head(1)])):
        with pytest.raises(ValueError, match="every pair needs a verdict row in each order"):
            pair_outcomes(wrong, pairs(("a", "b"), ("c", "d")))
