"""The judge in an evaluation: the pairs of answers, its verdicts on them, and the rows its numbers follow from."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import polars as pl

from distill_dagster.evaluation.predictions import build_predictions
from distill_dagster.judging.ask import judge_pairs
from distill_dagster.judging.outcomes import pair_outcomes
from distill_dagster.judging.pairs import PAIR_KEY, choose_pairs
from distill_dagster.project import Distillation
from distill_dagster.teachers.asking.obtaining import Purse
from distill_dagster.worker_process import Launch


@dataclass(frozen=True)
class Judged:
    """What a judge was shown and said.

    Attributes:
        pairs: PAIRS columns.
        verdicts: JUDGED columns of the same pairs, both orders.
    """

    pairs: pl.DataFrame
    verdicts: pl.DataFrame


def judge_answers(
    distillation: Distillation,
    test: pl.DataFrame,
    generated: pl.DataFrame,
    launch: Launch,
    purse: Purse | None = None,
    turn: AbstractContextManager[None] | None = None,
) -> Judged | None:
    """The verdicts on the test split's answers; None where no judge is declared.

    Args:
        test: DATASET columns.
        generated: GENERATED columns and `model`.
        launch: starts the worker, for a local judge.
        purse: who pays; default: the distillation, outside of any run.
        turn: held while the judge is asked, e.g. a place in its pool.

    Raises:
        BudgetError: the next call could exceed the budget; all verdicts so far are stored.
        DistillError: the judge cannot be used as declared, or some calls got no answer.
    """
    spec = distillation.spec.evaluation.judge
    if spec is None:
        return None
    pairs = choose_pairs(build_predictions(test, generated, None, ()), spec)
    with turn or nullcontext():
        return Judged(pairs, judge_pairs(distillation, pairs, launch, purse))


def judgement_rows(judged: Judged) -> pl.DataFrame:
    """Two rows a pair, one an order, without any text: all that the judge's numbers are computed from.

    Returns:
        JUDGED columns, and of the pair `outcome`, `score`, and `student_chars` and `other_chars`, the answers' lengths
        (null where there is no answer).
    """
    pairs = pair_outcomes(judged.verdicts, judged.pairs).select(
        *PAIR_KEY,
        "outcome",
        "score",
        student_chars=pl.col("answer_student").str.len_chars(),
        other_chars=pl.col("answer_other").str.len_chars(),
    )
    return judged.verdicts.join(pairs, on=PAIR_KEY, how="left", maintain_order="left")
