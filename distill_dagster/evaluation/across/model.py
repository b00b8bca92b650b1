"""What a comparison across time says: the content of `distill compare … --json`."""

from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from distill_dagster.evaluation.across.stored_report import TableName
from distill_dagster.evaluation.model import ReportModel, SampleRow, Unit
from distill_dagster.evaluation.statistics import Estimate

FORMAT = 1
Against = Literal["reference", "teacher"]
Verdict = Literal["better", "worse", "undecided", "equal"]


class Side(ReportModel):
    """One stored evaluation.

    Attributes:
        name: `student@version` with the version cut short.
        version: the evaluation's.
        written_at: when it was published on this machine.
        report: the path of its page.
    """

    name: str
    student: str
    version: str
    current: bool
    written_at: datetime
    dataset_version: str
    student_version: str
    base_version: str | None
    teacher_version: str | None
    spec_hash: str
    code_version: str
    test_rows: int
    report: str


class Change(ReportModel):
    """A fact that differs between the two; None where a side does not have it."""

    what: str
    a: JsonValue
    b: JsonValue


class SharedRows(ReportModel):
    """What became of the rows of both.

    Attributes:
        both, groups: rows with the same prompt id, sample and prompt text, and their groups.
        only_a, only_b: rows whose prompt id and sample the other does not have.
        other_text: rows that both have under one id with another prompt text; not compared.
        other_reference, other_teacher_answer: of `both`, those left out of what compares with it.
        changed_answers: of `both`, those that the two students answer with different texts.
    """

    both: int
    groups: int
    only_a: int
    only_b: int
    other_text: int
    other_reference: int
    other_teacher_answer: int
    changed_answers: int


class ComparedMeasure(ReportModel):
    """One measure of both students on the same rows.

    Attributes:
        against: what it compares with; None where it judges the answer alone.
        difference: paired, `b` - `a`.
        verdict: of B against A, where the whole interval is on one side of zero; `equal` where no row differs; None
            where neither direction is better or nothing can be said.
    """

    table: TableName
    name: str
    label: str
    description: str
    unit: Unit
    higher_is_better: bool | None
    against: Against | None
    a: Estimate
    b: Estimate
    difference: Estimate
    verdict: Verdict | None


class NotCompared(ReportModel):
    """A measure that one of the reports has and this comparison has not."""

    table: TableName
    name: str
    why: str


class ScoredRow(SampleRow):
    """A row with both students' scores; no text."""

    a: float | None
    b: float | None


class Examples(ReportModel):
    """Rows whose answers changed.

    Attributes:
        measure, table: what they are scored by; None where no metric was compared.
        regressions, gains: the largest losses and gains from A to B.
        others: changed answers among neither, chosen by hash of the prompt id.
    """

    measure: str | None
    table: TableName | None
    regressions: list[ScoredRow]
    gains: list[ScoredRow]
    others: list[ScoredRow]


class EvaluationComparison(ReportModel):
    """Two stored evaluations on the rows that both have."""

    format: int = FORMAT
    distillation: str
    a: Side
    b: Side
    findings: list[str]
    changes: list[Change]
    rows: SharedRows
    measures: list[ComparedMeasure]
    not_compared: list[NotCompared]
    examples: Examples
    confidence: float
    seed: int


class TimelineEntry(Side):
    """One stored evaluation with its main number, each on its own rows.

    Attributes:
        metric, label: the report's main metric.
        against: what the estimate is measured against; None where the metric judges the answer alone.
        estimate: the student's.
    """

    metric: str
    label: str
    against: Against | None
    estimate: Estimate


class Timeline(ReportModel):
    """All stored evaluations of a distillation, oldest first."""

    format: int = FORMAT
    distillation: str
    evaluations: list[TimelineEntry]
