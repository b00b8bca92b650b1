"""The teacher's answers to the golden rows: out of the response store, or asked one by one within the budget."""

import dataclasses

import polars as pl

from distill_dagster.errors import DistillError
from distill_dagster.project import Distillation
from distill_dagster.teachers.answers.validity import check_answers, is_judged
from distill_dagster.teachers.asking.obtaining import Purse, answers_to
from distill_dagster.teachers.protocol import Teacher
from distill_dagster.teachers.providers import make_teacher
from distill_dagster.worker_process import Launch, no_launch


def golden_answers(distillation: Distillation, golden: pl.DataFrame, launch: Launch, purse: Purse) -> pl.DataFrame:
    """prompt_id and completion of every golden row; null where the teacher refused or failed, which scores 0.

    A declared label is written as it is declared, as it is in the dataset.

    Args:
        golden: GOLDEN columns.
        launch: starts the worker, for a local teacher.
        purse: who pays a hosted one.

    Raises:
        DistillError: some rows could not be answered; everything that was is stored.
    """
    try:
        asked = answers_to(golden_teacher(distillation, launch), golden_requests(golden), purse)
    except DistillError as error:
        raise type(error)(f"evaluation.gate: {error}") from error
    checked = check_answers(asked, distillation.spec.teacher.labels, None)
    return checked.select("prompt_id", completion=pl.when(is_judged()).then(pl.coalesce("label", "completion")))


def golden_requests(golden: pl.DataFrame) -> pl.DataFrame:
    """What the teacher is asked about golden rows: prompt_id, messages, sample."""
    return golden.select("prompt_id", "messages", sample=pl.lit(0, dtype=pl.Int32))


def golden_teacher(distillation: Distillation, launch: Launch) -> Teacher:
    """The declared teacher, whose answers to golden rows are wanted within the run."""
    return make_teacher(_at_once(distillation), launch)


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
