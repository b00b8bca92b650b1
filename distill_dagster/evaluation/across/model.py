"""What a comparison across time says: the content of `distill compare … --json`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from pydantic import JsonValue

from distill_dagster.evaluation.across.stored_report import TableName
from distill_dagster.evaluation.model import ReportModel, SampleRow, Unit
from distill_dagster.evaluation.statistics import Estimate

FORMAT = 1
EVERY_MEASURE = "every measure"
Against = Literal["reference", "teacher"]
ComparedTable: TypeAlias = TableName | Literal["held_out_quality", "held_out_fidelity", "judge", "harness"]
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
        name: of a judge's win rate the opponent, of a harness's task `task/metric` and its filter where it has one.
        against: what it compares with; None where it judges the answer alone.
        difference: `b` - `a`, paired; of a harness's task unpaired (`welch_t`) where its rows cannot be paired.
        verdict: of B against A, where the whole interval is on one side of zero; `equal` where no row differs; None
            where neither direction is better or nothing can be said.
    """

    table: ComparedTable
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
    """A measure that one of the reports has and this comparison has not.

    Attributes:
        name: of the measure, or `EVERY_MEASURE` where a report has none of the table.
    """

    table: ComparedTable
    name: str
    why: str


@dataclass(frozen=True)
class Part:
    """Measures of some tables of two reports: those compared, and those not."""

    measures: list[ComparedMeasure]
    not_compared: list[NotCompared]


def lacking(table: ComparedTable, why: str) -> Part:
    """Nothing of a table is compared.

    Args:
        why: e.g. `no judge in A`.
    """
    return Part([], [NotCompared(table=table, name=EVERY_MEASURE, why=why)])


def sides_without(a: object, b: object) -> str:
    """`A` or `B`, whichever is None, or `A and B`."""
    return " and ".join(side for side, part in (("A", a), ("B", b)) if part is None)


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
    table: ComparedTable | None
    regressions: list[ScoredRow]
    gains: list[ScoredRow]
    others: list[ScoredRow]


class EvaluationComparison(ReportModel):
    """Two stored evaluations on the rows that both have.

    Attributes:
        held_out_rows: what became of the rows of held-out partitions; None where a side has none.
    """

    format: int = FORMAT
    distillation: str
    a: Side
    b: Side
    findings: list[str]
    changes: list[Change]
    rows: SharedRows
    held_out_rows: SharedRows | None
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
