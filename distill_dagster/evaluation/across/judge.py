"""Compares what one judge said of both students, on the pairs that differ in nothing but the student's answer."""

import polars as pl

from distill_dagster.evaluation.across.measures import A, B, as_compared
from distill_dagster.evaluation.across.model import ComparedMeasure, NotCompared, Part, lacking
from distill_dagster.evaluation.across.pairing import Paired
from distill_dagster.evaluation.across.stored import StoredEvaluation
from distill_dagster.evaluation.across.stored_report import StoredJudge
from distill_dagster.evaluation.predictions import KEY
from distill_dagster.evaluation.statistics import DEFAULT_SEED
from distill_dagster.evaluation.tables import Quantity, Scored
from distill_dagster.judging.prompts import STUDENT_FIRST
from distill_dagster.judging.verdicts import OPPONENT_LABELS
from distill_dagster.prompts.splits import Split


def compare_judges(a: StoredEvaluation, b: StoredEvaluation, paired: Paired) -> Part:
    """Win rates against each opponent, over pairs with a usable verdict, the same prompt and the same other answer.

    Raises:
        StorageError: the verdicts of one cannot be read.
    """
    left, right = ({one.opponent: one for one in side.report.judge} for side in (a, b))
    if not left and not right:
        return Part([], [])
    if not left or not right:
        return lacking("judge", f"no judge in {'B' if left else 'A'}")
    verdicts = a.judgements(), b.judgements()
    part = Part([], [])
    for opponent in [*right, *(one for one in left if one not in right)]:
        why = _hindrance(left.get(opponent), right.get(opponent))
        if why is None:
            found = _compare(right[opponent], verdicts, paired, b.report.confidence)
            if found.difference.n:
                part.measures.append(found)
                continue
            why = "no pair with a usable verdict is the same in both"
        part.not_compared.append(NotCompared(table="judge", name=opponent, why=why))
    return part


def _hindrance(left: StoredJudge | None, right: StoredJudge | None) -> str | None:
    if left is None or right is None:
        return f"judged in {'A' if right is None else 'B'} only"
    if left.judge != right.judge:
        return f"judged by {left.judge} in A, by {right.judge} in B"
    return None if left.rubric == right.rubric else "the rubrics differ"


def _compare(
    stored: StoredJudge, verdicts: tuple[pl.DataFrame, pl.DataFrame], paired: Paired, confidence: float
) -> ComparedMeasure:
    """The win rate against one opponent."""
    same = {"teacher": paired.same_teacher, "base": paired.same_base, "reference": paired.same_reference}
    kept = paired.a.select(*KEY, "group_id").filter(same[stored.opponent])
    own, other = (kept.join(_scores(rows, stored.opponent), on=KEY, how="inner") for rows in verdicts)
    rows = [
        side.join(opposite, on=KEY, how="semi").with_columns(model=pl.lit(name), split=pl.lit(Split.TEST.value))
        for name, side, opposite in ((A, own, other), (B, other, own))
    ]
    label = f"Win rate against {OPPONENT_LABELS[stored.opponent]}"
    quantity = Quantity(stored.opponent, label, f"judged by {stored.judge}, ties counted half", "share", True)
    scored = Scored(pl.concat(rows), confidence, DEFAULT_SEED)
    return as_compared("judge", scored.mean(quantity, pl.col("score"), (A, B), [(B, A)]))


def _scores(verdicts: pl.DataFrame, opponent: str) -> pl.DataFrame:
    """prompt_id, sample and score of each pair with a usable verdict; both of its rows have the same score."""
    own = verdicts.filter(pl.col("opponent") == opponent, pl.col("order") == STUDENT_FIRST)
    return own.select(*KEY, "score").drop_nulls("score")
