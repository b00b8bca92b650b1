"""Asks a hosted teacher once more about test prompts: two of its own answers show how close closeness can come."""

import dataclasses
from typing import Any

import polars as pl

from distill_dagster.errors import DistillError
from distill_dagster.evaluation.model import System
from distill_dagster.evaluation.prediction_files import Predicted
from distill_dagster.project import Distillation
from distill_dagster.prompts.splits import sha256_hex
from distill_dagster.teachers.answers.validity import check_answers, is_judged
from distill_dagster.teachers.asking.obtaining import Purse, answers_to
from distill_dagster.teachers.protocol import ResponseStatus, Teacher
from distill_dagster.teachers.providers import make_teacher
from distill_dagster.worker_process import no_launch


def second_sample_settings(distillation: Distillation) -> dict[str, Any] | None:
    """What decides the second answers, as JSON values for a build key; None where none are wanted."""
    if not distillation.spec.evaluation.teacher_resample:
        return None
    return {"teacher": second_teacher(distillation).identity.digest, "sample": _sample(distillation)}


def with_second_answers(
    predicted: Predicted, distillation: Distillation, asked: pl.DataFrame, purse: Purse
) -> Predicted:
    """Predictions with the teacher's second answers under the name `teacher_again`, where they are wanted.

    They are answers of the sample behind the declared ones, out of the response store where they were given before.
    A number of prompts takes those with the smallest hash of their id, so that a larger number only adds to them.

    Args:
        predicted: of the test split.
        asked: prompt_id, sample, teacher_messages of the test rows.
        purse: who pays.

    Raises:
        DistillError: some could not be answered; everything that was is stored.
    """
    if not distillation.spec.evaluation.teacher_resample:
        return predicted
    try:
        answers = answers_to(second_teacher(distillation), second_requests(distillation, asked), purse)
    except DistillError as error:
        raise type(error)(f"evaluation.teacher_resample: {error}") from error
    again = asked.select("prompt_id", "sample").join(_texts(distillation, answers), on="prompt_id")
    return dataclasses.replace(
        predicted, generated=pl.concat([predicted.generated, again.select(predicted.generated.columns)])
    )


def second_requests(distillation: Distillation, asked: pl.DataFrame, *, every: bool = False) -> pl.DataFrame:
    """What the teacher is asked once more: prompt_id, messages, sample.

    Args:
        asked: prompt_id, teacher_messages of the test rows.
        every: about all of them, whatever number is declared.
    """
    wanted = distillation.spec.evaluation.teacher_resample
    prompts = asked.unique("prompt_id").sort(sha256_hex(pl.col("prompt_id")))
    chosen = prompts if every or wanted is True else prompts.head(int(wanted))
    sample = pl.lit(_sample(distillation), dtype=pl.Int32)
    return chosen.select("prompt_id", messages="teacher_messages", sample=sample)


def _texts(distillation: Distillation, answers: pl.DataFrame) -> pl.DataFrame:
    """Answers as GENERATED columns without `sample`; a refusal, an error or an empty one is no answer."""
    checked = check_answers(answers, distillation.spec.teacher.labels, None)
    return checked.select(
        "prompt_id",
        prediction=pl.when(is_judged()).then(pl.coalesce("label", "completion")),
        tokens=pl.lit(None, dtype=pl.Int32),
        stopped=pl.when(is_judged()).then(pl.col("status") == ResponseStatus.ANSWERED.value),
        model=pl.lit(System.TEACHER_AGAIN.value),
    )


def _sample(distillation: Distillation) -> int:
    """The index behind those of the declared samples."""
    return distillation.spec.teacher.samples


def second_teacher(distillation: Distillation) -> Teacher:
    """The declared teacher; its answers are wanted now, so that they travel as single messages."""
    spec = distillation.spec
    now = spec.teacher.model_copy(update={"transport": "messages"})
    return make_teacher(dataclasses.replace(distillation, spec=spec.model_copy(update={"teacher": now})), no_launch)
