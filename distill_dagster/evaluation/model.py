"""What an evaluation says: the report as data.

`EvaluationReport` is the content of report.json; the HTML page, the Dagster metadata and the plots only show it.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from distill_dagster.evaluation.gate import Decision, Status
from distill_dagster.evaluation.harness_table import HarnessTable
from distill_dagster.evaluation.statistics import Estimate
from distill_dagster.judging.verdicts import JudgeTable

REPORT_FORMAT = 1
Unit = Literal["score", "share", "nats_per_token", "perplexity", "ratio", "tokens"]


class System(StrEnum):
    """Whose answers, or next-token guesses, are measured; other students of the distillation: see `companion`."""

    TEACHER = "teacher"
    TEACHER_AGAIN = "teacher_again"
    STUDENT = "student"
    BASE = "base"
    MOST_FREQUENT = "most_frequent"
    BIGRAM = "bigram"


COUNT_BASELINES = (System.BIGRAM, System.MOST_FREQUENT)
PERPLEXITY = "perplexity"
_COMPANION = "student/"


def companion(student: str) -> str:
    """The system name of another student of the distillation; no `System` has a slash."""
    return f"{_COMPANION}{student}"


def companion_name(system: str) -> str | None:
    """The student's name behind a companion's system name; None for a `System`."""
    return system.removeprefix(_COMPANION) if system.startswith(_COMPANION) else None


def answering(companions: Sequence[str]) -> tuple[str, ...]:
    """The systems that answer, in the order in which tables show them.

    Args:
        companions: system names of the other students.
    """
    return (System.TEACHER, System.STUDENT, *companions, System.BASE)


class ReportModel(BaseModel):
    """Strict and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Versions(ReportModel):
    """Content hashes of what was evaluated.

    `teacher` is a local teacher's weights, None for a hosted one; `golden_set` is None where no gate is declared.
    """

    dataset: str
    student: str
    teacher: str | None = None
    golden_set: str | None = None


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

    left: str
    right: str
    difference: Estimate


class Measure(ReportModel):
    """One row of a table: what is measured, each system's estimate, and paired differences."""

    name: str
    label: str
    description: str
    unit: Unit
    higher_is_better: bool | None
    systems: dict[str, Estimate]
    comparisons: list[Comparison]

    def comparison(self, left: str, right: str) -> Estimate | None:
        """The paired difference left - right, or None where it was not made."""
        found = (c.difference for c in self.comparisons if (c.left, c.right) == (left, right))
        return next(found, None)


class SecondSample(ReportModel):
    """The teacher asked once more: a student cannot be expected to come closer to it than its two answers are.

    `reached` is each learner's closeness to the teacher as a share of the teacher's own, over the rows asked again.
    """

    prompts: int
    unanswered: int
    reached: list[Measure]


class HeldOut(ReportModel):
    """The same models on partitions kept out of train, validation and test; no other number of the report has them in.

    In `quality_change` and `fidelity_change` an estimate is that of the held-out rows less that of the test split,
    unpaired, and a comparison is the change of the paired difference.
    """

    rows_per_partition: dict[str, int]
    rows: int
    groups: int
    rows_with_reference: int
    unanswered: dict[str, int]
    quality: list[Measure]
    retention: list[Measure]
    fidelity: list[Measure]
    quality_change: list[Measure]
    fidelity_change: list[Measure]


class GateVerdict(ReportModel):
    """The gate as declared, and what the golden rows say.

    Attributes:
        alpha_spent: of each bound at this look, for this candidate; None without a verdict.
        look: from 1, how often these golden rows were looked at for this student; None where they were not.
        candidates: students among whom alpha is split.
        golden_set: its version.
        unverified: golden rows that no person has checked; they decide nothing.
        status: None where the student is not a candidate, so that there is no verdict.
        statement: the verdict and its reasons in words.
        decisions: of all rows together and, where asked, of each slice.
        scores: mean of the metric by system, for the same rows as `decisions`.
    """

    metric: str
    max_degradation: float
    min_score: float | None
    alpha: float
    alpha_spent: float | None
    look: int | None
    candidates: int
    golden_set: str
    unverified: int
    status: Status | None
    statement: str
    decisions: dict[str, Decision]
    scores: dict[str, dict[str, float]] = {}

    @property
    def passed(self) -> bool:
        """Whether the student may be released; inconclusive is not a pass."""
        return self.status is Status.PASS


class SeedFacts(ReportModel):
    """How training with one of several seeds ended."""

    seed: int
    steps: int
    validation_loss: float | None


class StudentFacts(ReportModel):
    """What a student is: this report's, or one that is shown beside it. Its size is in the report's other fields."""

    system: str
    name: str
    version: str
    objective: str
    targets: str
    origin: str
    rows_trained: int
    steps: int
    tokens_trained: int


class TrainingFacts(ReportModel):
    """How the student was trained; no timings. A loss that is not finite is None.

    `settings` is its declaration, without the settings that its objective does not have.
    """

    settings: dict[str, JsonValue]
    seed: int
    seeds: list[SeedFacts]
    validation_measure: str
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
    retention: list[Measure]
    fidelity: list[Measure]
    second_sample: SecondSample | None
    health: list[Measure]
    held_out: HeldOut | None
    judge: list[JudgeTable]
    harness: HarnessTable | None
    gate: GateVerdict | None
    students: list[StudentFacts]
    training: TrainingFacts
    parameters: dict[str, int]
    checkpoint_bytes: dict[str, int]
    teacher_usd_per_1000_answers: float | None
    machine_usd_per_hour: float | None
    samples: Samples
    confidence: float
    seed: int

    @property
    def companions(self) -> list[str]:
        """System names of the other students, in the order in which they are declared."""
        return [student.system for student in self.students if student.system != System.STUDENT]

    def measure(self, table: Literal["quality", "fidelity", "health"], name: str) -> Measure | None:
        """A table's row by name, or None where it was not measured."""
        rows: list[Measure] = getattr(self, table)
        return next((row for row in rows if row.name == name), None)

    @property
    def measured_quality(self) -> list[Measure]:
        """The measures of quality that any row has; without human references only those that need none."""
        return [measure for measure in self.quality if any(estimate.n for estimate in measure.systems.values())]

    @property
    def with_other_tokens(self) -> list[str]:
        """Systems whose perplexity is not comparable with the student's, for their tokenizer is another."""
        measure = self.measure("fidelity", PERPLEXITY)
        if measure is None or not measure.systems[System.STUDENT].n:
            return []
        others = [other for other, estimate in measure.systems.items() if estimate.n and other != System.STUDENT]
        return [other for other in others if measure.comparison(System.STUDENT, other) is None]

    def needs_reference(self, name: str) -> bool:
        """Whether a metric compares with a reference; it then compares with the teacher's answers too."""
        return self.measure("fidelity", name) is not None
