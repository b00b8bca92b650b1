"""What both orders of a pair come to together: one outcome and one score a pair.

A pair is won only where the same answer is preferred in both orders, and a tie otherwise: Zheng et al., "Judging
LLM-as-a-Judge with MT-Bench and Chatbot Arena" (2023), section 3.4.
"""

from enum import StrEnum

import polars as pl

from distill_dagster.judging.pairs import OTHER, PAIR_KEY, STUDENT
from distill_dagster.judging.prompts import OTHER_FIRST, STUDENT_FIRST
from distill_dagster.judging.replies import TIE


class Outcome(StrEnum):
    """How the student fared in a pair.

    FLIP: the winner changed with the order. WAVER: a tie in one order, a winner in the other.
    """

    WIN = "win"
    LOSS = "loss"
    TIE = "tie"
    FLIP = "flip"
    WAVER = "waver"
    UNUSABLE = "unusable"


SCORES = {Outcome.WIN: 1.0, Outcome.LOSS: 0.0, Outcome.TIE: 0.5, Outcome.FLIP: 0.5, Outcome.WAVER: 0.5}
DECISIVE = (Outcome.WIN, Outcome.LOSS, Outcome.FLIP)
"""A winner in both orders, the same or not."""


def pair_outcomes(judged: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """One row a pair, sorted by opponent, prompt and sample.

    Args:
        judged: JUDGED columns.
        pairs: PAIRS columns of the same pairs.

    Returns:
        PAIRS columns; STUDENT_FIRST and OTHER_FIRST, the verdicts; `asked`, whether there were calls; `outcome`; and
        `score`: 1, 0.5 or 0, null where the outcome is unusable.

    Raises:
        ValueError: a pair lacks one of its two verdict rows.
    """
    first, second = (
        judged.filter(pl.col("order") == order).select(*PAIR_KEY, pl.col("verdict").alias(order), "request_key")
        for order in (STUDENT_FIRST, OTHER_FIRST)
    )
    both = first.join(second.drop("request_key"), on=PAIR_KEY, how="inner")
    rows = pairs.join(both, on=PAIR_KEY, how="inner").sort("opponent", "prompt_id", "sample")
    if len(rows) != len(pairs) or len(judged) != 2 * len(pairs):
        raise ValueError(f"every pair needs a verdict row in each order (seen: {len(pairs)} pairs, {len(judged)} rows)")
    return rows.with_columns(asked=pl.col("request_key").is_not_null(), outcome=_outcome()).with_columns(
        score=pl.col("outcome").replace_strict(SCORES, default=None, return_dtype=pl.Float64)
    )


def _outcome() -> pl.Expr:
    one, other = pl.col(STUDENT_FIRST), pl.col(OTHER_FIRST)
    agreed = one == other
    return (
        pl.when(one.is_null() | other.is_null())
        .then(pl.lit(Outcome.UNUSABLE.value))
        .when(agreed & (one == STUDENT))
        .then(pl.lit(Outcome.WIN.value))
        .when(agreed & (one == OTHER))
        .then(pl.lit(Outcome.LOSS.value))
        .when(agreed)
        .then(pl.lit(Outcome.TIE.value))
        .when((one == TIE) | (other == TIE))
        .then(pl.lit(Outcome.WAVER.value))
        .otherwise(pl.lit(Outcome.FLIP.value))
    )
