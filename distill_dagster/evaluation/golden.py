"""What the systems of a gate say to the golden rows: the teacher's stored answers, the student's and the base's own."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from distill_dagster.evaluation.model import System
from distill_dagster.evaluation.prediction_files import (
    READ_COLUMNS,
    Wanted,
    missing,
    publish_finished,
    read_predictions,
)
from distill_dagster.evaluation.subjects import Subjects, longest_answer, subject_model
from distill_dagster.golden.answers import golden_answers
from distill_dagster.golden.build import read_golden_set
from distill_dagster.jobs import PredictJob
from distill_dagster.lineage.hashing import frame_version
from distill_dagster.project import Distillation
from distill_dagster.storage import write_file
from distill_dagster.worker_process import Launch, run_job

PARTITION = "golden_set"


@dataclass(frozen=True)
class GoldenEvidence:
    """What a gate is decided on.

    Attributes:
        version: of the golden set.
        rows: DATASET columns of the verified rows, `slice` beside them; completion is the teacher's answer, null where
            it refused or failed.
        generated: answers of student and base (GENERATED columns and `model`).
        unverified: rows that no person has checked, left out.
    """

    version: str
    rows: pl.DataFrame
    generated: pl.DataFrame
    unverified: int


def golden_evidence(
    distillation: Distillation, subjects: Subjects, version: str, work: Path, launch: Launch
) -> GoldenEvidence:
    """Asks teacher, student and base; what is stored is not asked again.

    Raises:
        DistillError: the teacher could not be asked, or the worker failed.
    """
    golden = read_golden_set(distillation, version)
    verified = golden.filter("verified")
    answers = golden_answers(distillation, verified, launch)
    rows = _as_test_rows(verified.join(answers, on="prompt_id", how="left", maintain_order="left"))
    wanted = _wanted(distillation, subjects, rows)
    publish_finished(distillation, wanted, work)
    absent = missing(distillation, wanted)
    if absent:
        _predict(distillation, absent, rows, work, launch)
    predicted = read_predictions(distillation, wanted)
    return GoldenEvidence(version, rows, predicted.generated, len(golden) - len(verified))


def _as_test_rows(golden: pl.DataFrame) -> pl.DataFrame:
    return golden.select(
        "prompt_id",
        "group_id",
        "text",
        "reference",
        "completion",
        "slice",
        sample=pl.lit(0, dtype=pl.Int32),
        partition=pl.lit(PARTITION),
        messages=pl.col("student_messages"),
        teacher_messages=pl.col("messages"),
        completion_ids=pl.lit(None, dtype=pl.List(pl.Int32)),
    )


def _wanted(distillation: Distillation, subjects: Subjects, rows: pl.DataFrame) -> list[Wanted]:
    inputs = {"rows": frame_version(rows, READ_COLUMNS)}
    settings = {"max_tokens": longest_answer(distillation)}
    student = subjects.student
    models = [
        (System.STUDENT, f"student {student.name}, golden set", student.version, student.folder),
        (System.BASE, f"base of {student.name}, golden set", subjects.base, student.base_folder),
    ]
    return [
        Wanted.of(system, subject_model(label, folder), inputs | {"model": version}, settings)
        for system, label, version, folder in models
    ]


def _predict(distillation: Distillation, absent: list[Wanted], rows: pl.DataFrame, work: Path, launch: Launch) -> None:
    path = work / "golden_rows.parquet"
    write_file(path, lambda aside: rows.write_parquet(aside))
    job = PredictJob(
        predictions=[one.prediction for one in absent],
        teacher=None,
        rows=path,
        train_rows=path,
        max_tokens=longest_answer(distillation),
        batch_size=distillation.spec.evaluation.batch_size,
        out=work,
    )
    run_job(job, launch, on_poll=lambda: publish_finished(distillation, absent, work))
