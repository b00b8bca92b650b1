"""What an evaluation is made from and what it says: the inputs, and the report as data.

`EvaluationReport` is the content of report.json; the HTML page, the Dagster metadata and the plots only show it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from distill_dagster.evaluation.statistics import Estimate
from distill_dagster.jobs import PredictResult, TrainResult
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.spec.students import StudentSpec

REPORT_FORMAT = 1
Unit = Literal["score", "share", "nats_per_token", "ratio", "tokens"]


class System(StrEnum):
    """Whose answers, or next-token guesses, are measured."""

    TEACHER = "teacher"
    STUDENT = "student"
    BASE = "base"
    MOST_FREQUENT = "most_frequent"
    BIGRAM = "bigram"


ANSWERING = (System.TEACHER, System.STUDENT, System.BASE)
COUNT_BASELINES = (System.BIGRAM, System.MOST_FREQUENT)


class ReportModel(BaseModel):
    """Strict and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Versions(ReportModel):
    """Content hashes of what was evaluated; `teacher` is a local teacher's weights, None for a hosted one."""

    dataset: str
    student: str
    teacher: str | None = None


class ModelNames(ReportModel):
    """How each model is named by those who made it: a hub id, a folder, a provider's model id."""

    teacher: str
    student: str
    base: str


class Decoding(ReportModel):
    """How answers were generated."""

    strategy: Literal["greedy"] = "greedy"
    max_tokens: int
    batch_size: int
    teacher_max_tokens: int
    teacher_dtype: str | None


class Identity(ReportModel):
    """Which report this is."""

    distillation: str
    student: str
    description: str | None
    spec_hash: str
    versions: Versions
    models: ModelNames
    base_label: str
    base_is_pruned: bool
    decoding: Decoding
    authorization: str | None


class DroppedCount(ReportModel):
    """Rows that curation kept out of one split, for one reason."""

    split: str
    reason: str
    rows: int


class Counts(ReportModel):
    """What happened to every row."""

    test_rows: int
    test_groups: int
    rows_per_split: dict[str, int]
    rows_with_reference: int
    dropped: list[DroppedCount]
    unanswered: dict[str, int]
    rows_without_fidelity: int | None
    train_rows_over_length: int
    train_ids_over_length: list[str]


class Comparison(ReportModel):
    """A paired difference, `left` - `right`, over the rows that both have."""

    left: System
    right: System
    difference: Estimate


class Measure(ReportModel):
    """One row of a table: what is measured, each system's estimate, and paired differences."""

    name: str
    label: str
    description: str
    unit: Unit
    higher_is_better: bool | None
    systems: dict[System, Estimate]
    comparisons: list[Comparison]

    def comparison(self, left: System, right: System) -> Estimate | None:
        """The paired difference left - right, or None where it was not made."""
        found = (c.difference for c in self.comparisons if (c.left, c.right) == (left, right))
        return next(found, None)


class GateDeclaration(ReportModel):
    """The acceptable loss as declared, and where its verdict stands."""

    metric: str
    max_degradation: float
    status: Literal["not_decided"] = "not_decided"
    statement: str


class TrainingFacts(ReportModel):
    """How the student was trained; no timings. A loss that is not finite is None."""

    settings: StudentSpec
    rows_trained: int
    steps: int
    tokens_trained: int
    train_loss: float | None
    validation_loss: float | None
    kept_layers: list[int] | None
    loss_curve: list[tuple[int, float | None]]
    validation_curve: list[tuple[int, float | None]]


class SampleRow(ReportModel):
    """A row shown side by side; the texts are in predictions.parquet."""

    prompt_id: str
    sample: int


class Samples(ReportModel):
    """Rows worth reading: where the student lost most, and rows chosen by hash before any result was known."""

    worst_by: str
    worst: list[SampleRow]
    fixed: list[SampleRow]


class EvaluationReport(ReportModel):
    """One evaluation; a function of the predictions and the inputs named in `identity`, without timings or dates."""

    format: int = REPORT_FORMAT
    identity: Identity
    headlines: list[str]
    counts: Counts
    primary_metric: str
    quality: list[Measure]
    quality_kept: Estimate
    fidelity: list[Measure]
    health: list[Measure]
    gate: GateDeclaration | None
    training: TrainingFacts
    parameters: dict[str, int]
    checkpoint_bytes: dict[str, int]
    teacher_usd_per_1000_answers: float | None
    samples: Samples
    confidence: float
    seed: int

    def measure(self, table: Literal["quality", "fidelity", "health"], name: str) -> Measure | None:
        """A table's row by name, or None where it was not measured."""
        rows: list[Measure] = getattr(self, table)
        return next((row for row in rows if row.name == name), None)


@dataclass(frozen=True)
class EvaluationInputs:
    """All that an evaluation is made from.

    Attributes:
        distillation, student: names in the project.
        spec: the declaration; `spec.students[student]` says how the student was trained.
        spec_hash: hash of the declaration.
        versions, models: what was evaluated.
        rows_per_split: rows of the dataset in each split.
        test: the dataset's test split (DATASET columns).
        dropped: rows that curation kept out, of all splits (DROPPED columns).
        generated: answers of student and base on the test split (GENERATED columns).
        fidelity: teacher-forced agreement on the test split (FIDELITY columns); None with a hosted teacher.
        training, prediction: what the worker said of its jobs.
        teacher_layers: layers of the model a pruned base was cut from, where known.
        teacher_usd_per_1000_answers: what the provider charged, from its usage; None for a teacher on this machine.
    """

    distillation: str
    student: str
    spec: DistillationSpec
    spec_hash: str
    versions: Versions
    models: ModelNames
    rows_per_split: dict[str, int]
    test: pl.DataFrame
    dropped: pl.DataFrame
    generated: pl.DataFrame
    fidelity: pl.DataFrame | None
    training: TrainResult
    prediction: PredictResult
    teacher_layers: int | None = None
    teacher_usd_per_1000_answers: float | None = None
