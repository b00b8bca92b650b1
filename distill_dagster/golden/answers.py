"""The teacher's answers to the golden rows: out of the response store, or asked one by one within the budget."""

import dataclasses

import polars as pl

from distill_dagster.project import Distillation
from distill_dagster.teachers.asking.obtaining import Purse, answers_to
from distill_dagster.teachers.protocol import ResponseStatus
from distill_dagster.teachers.providers import make_teacher
from distill_dagster.worker_process import Launch, no_launch

_SAID = (ResponseStatus.ANSWERED.value, ResponseStatus.TRUNCATED.value)


def golden_answers(distillation: Distillation, golden: pl.DataFrame, launch: Launch) -> pl.DataFrame:
    """prompt_id and completion of every golden row; null where the teacher refused or failed, which scores 0.

    Args:
        golden: GOLDEN columns.
        launch: starts the worker, for a local teacher.

    Raises:
        DistillError: some rows could not be answered; everything that was is stored.
    """
    prompts = golden.select("prompt_id", "messages", sample=pl.lit(0, dtype=pl.Int32))
    asked = answers_to(make_teacher(_at_once(distillation), launch), prompts, Purse(distillation))
    said = pl.when(pl.col("status").is_in(_SAID)).then("completion")
    return asked.select("prompt_id", completion=said)


def answering_identity(distillation: Distillation) -> str:
    """Digest of the teacher that answers, for a build key."""
    return make_teacher(distillation, no_launch).identity.digest


def _at_once(distillation: Distillation) -> Distillation:
    """With single messages instead of batches: a golden set is small, and wanted within the run."""
    teacher = distillation.spec.teacher
    if teacher.provider != "anthropic":
        return distillation
    spec = distillation.spec.model_copy(update={"teacher": teacher.model_copy(update={"transport": "messages"})})
    return dataclasses.replace(distillation, spec=spec)
