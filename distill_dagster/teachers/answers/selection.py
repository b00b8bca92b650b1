"""Which of a prompt's samples the students learn, and the scores that decide it."""

import math
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.errors import TeacherError
from distill_dagster.metrics import METRICS, NO_ROW
from distill_dagster.prompts.source_python import UserFunction
from distill_dagster.spec.answers import BestOf, SelectSpec
from distill_dagster.spec.metrics import ReferenceMetricName
from distill_dagster.teachers.answers.validity import is_judged
from distill_dagster.teachers.protocol import ResponseStatus

PYTHON_KEY = "teacher.select.best.python"


def is_usable() -> pl.Expr:
    """Whether a row (status, completion, problem) is an answer that a student could learn."""
    return is_judged() & (pl.col("status") == ResponseStatus.ANSWERED.value) & pl.col("problem").is_null()


def select(rows: pl.DataFrame, how: SelectSpec) -> pl.DataFrame:
    """Adds `selected`: whether a sample is the one, or one of those, that stay of its prompt.

    Where no sample of a prompt is usable, all are selected, so that curation gives each its own reason.

    Args:
        rows: prompt_id, sample, status, completion, problem, and for `best` score; all samples of each prompt.
        how: `all`; `first_valid`, the usable sample of the smallest index; or `best`, the usable sample of the highest
            score, where null ranks last and ties go to the smaller index.
    """
    if how == "all":
        return rows.with_columns(selected=pl.lit(True))
    by_score = ["score"] if isinstance(how, BestOf) else []
    position = pl.int_range(pl.len())
    usable = rows.select("prompt_id", "sample", *by_score, position=position, is_usable=is_usable()).filter("is_usable")
    order = ["prompt_id", *by_score, "sample"]
    best_first = usable.sort(order, descending=[name == "score" for name in order], nulls_last=True)
    chosen = best_first.unique("prompt_id", keep="first", maintain_order=True)
    has_none = ~pl.col("prompt_id").is_in(chosen["prompt_id"].implode())
    return rows.with_columns(selected=position.is_in(chosen["position"].implode()) | has_none)


def metric_scores(rows: pl.DataFrame, metric: ReferenceMetricName) -> pl.Series:
    """Each usable answer's metric against the prompt's reference; null without reference.

    Args:
        rows: status, completion, problem, reference.
        metric: a name of `METRICS`.
    """
    measure = METRICS[metric].score

    def score(completion: str, reference: str | None) -> float | None:
        return measure(completion, reference, NO_ROW) if reference is not None else None

    return _scores(rows, ["completion", "reference"], score)


def python_scores(rows: pl.DataFrame, name: str, folder: Path) -> pl.Series:
    """Each usable answer's score by the user's own function of (prompt, completion, reference).

    Args:
        rows: prompt_id, sample, status, text, completion, problem, reference.
        name: `module.function` beside the YAML file.
        folder: the YAML file's folder.

    Raises:
        TeacherError: no such function, or it raised or returned something else than a finite number. An exception's
            own text is left out, because it may quote the prompt.
    """
    function = UserFunction(PYTHON_KEY, name, folder, TeacherError)
    with function.loaded() as call:

        def score(prompt_id: str, sample: int, *texts: str | None) -> float:
            where = f"{PYTHON_KEY}: {name}: prompt {prompt_id!r}, sample {sample}"
            try:
                value = call(*texts)
            except Exception as error:
                # The user's own code may raise anything, and its message may quote the prompt: told are kind and line.
                told = f"{type(error).__name__} at {function.place(error)}"
                raise TeacherError(f"{where}: {told}; mend the function") from None
            return _finite(value, where)

        return _scores(rows, ["prompt_id", "sample", "text", "completion", "reference"], score)


def _scores(rows: pl.DataFrame, columns: list[str], score: Callable[..., float | None]) -> pl.Series:
    """The score of each usable row, called with the columns' values; null for the others."""
    usable = rows.select(is_usable()).to_series()
    each = (
        score(*values) if wanted else None
        for wanted, values in zip(usable, rows.select(columns).iter_rows(), strict=True)
    )
    return pl.Series("score", each, dtype=pl.Float64)


def _finite(value: Any, where: str) -> float:
    try:
        number = float(value) if isinstance(value, Real) else None
    except OverflowError:
        number = math.inf
    if number is None or not math.isfinite(number):
        seen = type(value).__name__ if number is None else number
        raise TeacherError(f"{where}: return a finite number (seen: {seen})")
    return number
