"""Compares two stored evaluations, or lists all of them: from files alone, no model is loaded."""

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.across.away import compare_held_out
from distill_dagster.evaluation.across.changes import changes
from distill_dagster.evaluation.across.examples import choose_examples
from distill_dagster.evaluation.across.findings import findings
from distill_dagster.evaluation.across.harness import compare_harnesses
from distill_dagster.evaluation.across.judge import compare_judges
from distill_dagster.evaluation.across.measures import against, compare_measures
from distill_dagster.evaluation.across.model import (
    EvaluationComparison,
    Side,
    Timeline,
    TimelineEntry,
)
from distill_dagster.evaluation.across.pairing import Paired, pair
from distill_dagster.evaluation.across.stored import StoredEvaluation, stored_evaluations
from distill_dagster.evaluation.across.stored_report import TableName
from distill_dagster.evaluation.model import System
from distill_dagster.evaluation.statistics import DEFAULT_SEED
from distill_dagster.project import Distillation


def compare_evaluations(
    distillation: Distillation, a: StoredEvaluation, b: StoredEvaluation
) -> tuple[EvaluationComparison, Paired]:
    """B against A on the rows that both have, and those rows, for the texts.

    Raises:
        EvaluationError: no prompt is in both.
        StorageError: the predictions, verdicts or harness's rows of one cannot be read.
    """
    paired = pair(a.predictions(), b.predictions())
    if paired.rows.both == 0:
        raise EvaluationError(
            f"{distillation.name}: {a.name} and {b.name} have no row with the same prompt "
            f"({paired.rows.other_text} have the same id and another text); evaluate both on the same test split"
        )
    away, held_out_rows = compare_held_out(a, b)
    parts = [
        compare_measures(a.report, b.report, paired),
        away,
        compare_judges(a, b, paired),
        compare_harnesses(a, b),
    ]
    measures = [measure for part in parts for measure in part.measures]
    left, right = _side(a), _side(b)
    comparison = EvaluationComparison(
        distillation=distillation.name,
        a=left,
        b=right,
        findings=findings(left, right, paired.rows, measures, b.report.primary_metric),
        changes=changes(a, b),
        rows=paired.rows,
        held_out_rows=held_out_rows,
        measures=measures,
        not_compared=[one for part in parts for one in part.not_compared],
        examples=choose_examples(b.report, measures, paired),
        confidence=b.report.confidence,
        seed=DEFAULT_SEED,
    )
    return comparison, paired


def timeline(distillation: Distillation) -> Timeline:
    """All stored evaluations, oldest first, each with its student's main number on its own rows.

    Raises:
        EvaluationError: there is none.
        StorageError: one cannot be read.
    """
    stored = stored_evaluations(distillation)
    if not stored:
        raise EvaluationError(f"{distillation.name}: no evaluation yet; `distill run {distillation.name}` makes one")
    return Timeline(distillation=distillation.name, evaluations=[_entry(one) for one in stored])


def _side(one: StoredEvaluation) -> Side:
    identity = one.report.identity
    return Side(
        name=one.name,
        student=one.student,
        version=one.version,
        current=one.current,
        written_at=one.written_at,
        dataset_version=identity.versions.dataset,
        student_version=identity.versions.student,
        base_version=one.base,
        teacher_version=identity.versions.teacher,
        spec_hash=identity.spec_hash,
        code_version=one.code_version,
        test_rows=one.report.counts.test_rows,
        report=str(one.report_path),
    )


def _entry(one: StoredEvaluation) -> TimelineEntry:
    report, name = one.report, one.report.primary_metric
    table: TableName = "quality" if report.measures("quality")[name].systems[System.STUDENT].n else "fidelity"
    measure = report.measures(table)[name]
    return TimelineEntry(
        **_side(one).model_dump(),
        metric=name,
        label=measure.label,
        against=against(table, name, report),
        estimate=measure.systems[System.STUDENT],
    )
