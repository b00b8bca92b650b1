"""Pairs the rows of two evaluations: the same prompt id, sample and prompt text."""

from dataclasses import dataclass

import polars as pl

from distill_dagster.evaluation.across.model import SharedRows
from distill_dagster.evaluation.model import System
from distill_dagster.evaluation.predictions import KEY

TEACHER_ANSWER = "teacher_answer"
BASE_ANSWER = "base_answer"


@dataclass(frozen=True)
class Paired:
    """The two students' rows on the prompts that both answered.

    Attributes:
        a, b: predictions columns, `teacher_answer` and `base_answer`, row by row of the same prompt; groups are B's on
            both sides.
        same_reference, same_teacher: whether a row has the same reference, or answer of the teacher, on both sides.
        rows: what became of all rows.
    """

    a: pl.DataFrame
    b: pl.DataFrame
    same_reference: pl.Series
    same_teacher: pl.Series
    rows: SharedRows

    @property
    def same_base(self) -> pl.Series:
        """Whether a row has the same answer of the undistilled base on both sides."""
        return _equal(self.a, self.b, BASE_ANSWER)

    @property
    def changed(self) -> pl.Series:
        """Whether a row's answers differ."""
        return ~_equal(self.a, self.b, "prediction")


def pair(a: pl.DataFrame, b: pl.DataFrame) -> Paired:
    """Pairs the students of two evaluations' predictions."""
    left, right = _student(a), _student(b)
    shared = left.join(right, on=KEY).filter(pl.col("text") == pl.col("text_right")).select(KEY)
    own, other = (rows.join(shared, on=KEY, how="semi").sort(KEY) for rows in (left, right))
    own = own.with_columns(other["group_id"])
    same_reference, same_teacher = _equal(own, other, "reference"), _equal(own, other, TEACHER_ANSWER)
    rows = SharedRows(
        both=len(own),
        groups=other["group_id"].n_unique(),
        only_a=len(left.join(right, on=KEY, how="anti")),
        only_b=len(right.join(left, on=KEY, how="anti")),
        other_text=len(left.join(right, on=KEY, how="semi")) - len(own),
        other_reference=int((~same_reference).sum()),
        other_teacher_answer=int((~same_teacher).sum()),
        changed_answers=int((~_equal(own, other, "prediction")).sum()),
    )
    return Paired(own, other, same_reference, same_teacher, rows)


def _student(predictions: pl.DataFrame) -> pl.DataFrame:
    """The student's rows with the teacher's and the base's answer to each."""
    rows = predictions.filter(pl.col("model") == System.STUDENT.value)
    for system, column in ((System.TEACHER, TEACHER_ANSWER), (System.BASE, BASE_ANSWER)):
        other = predictions.filter(pl.col("model") == system.value)
        rows = rows.join(other.select(*KEY, pl.col("prediction").alias(column)), on=KEY, how="left")
    return rows


def _equal(a: pl.DataFrame, b: pl.DataFrame, column: str) -> pl.Series:
    """Row by row; two nulls are equal."""
    return a[column].eq_missing(b[column])
