"""Measures both students of two evaluations on the same rows, from the scores that are stored."""

from collections.abc import Sequence

import polars as pl

from distill_dagster.evaluation.across.model import Against, ComparedMeasure, ComparedTable, NotCompared, Part, Verdict
from distill_dagster.evaluation.across.pairing import Paired
from distill_dagster.evaluation.across.stored_report import TABLES, StoredMeasure, StoredReport, TableName
from distill_dagster.evaluation.headlines import is_better
from distill_dagster.evaluation.model import PERPLEXITY, Measure
from distill_dagster.evaluation.predictions import KEY, LABEL, REFERENCE_LABEL, TEACHER_LABEL, vs_reference, vs_teacher
from distill_dagster.evaluation.statistics import DEFAULT_SEED, Method
from distill_dagster.evaluation.tables import Quantity, Scored
from distill_dagster.metrics import METRICS
from distill_dagster.prompts.splits import Split
from distill_dagster.spec.metrics import MACRO_F1

A, B = "a", "b"
PER_TOKEN = {"forward_kl": "kl_sum", "top1": "top1_hits"}
_BUILT_IN = {*METRICS, MACRO_F1, *PER_TOKEN, PERPLEXITY}
_HEALTH = {
    "no_stop": (~pl.col("stopped")).cast(pl.Float64),
    "tokens": pl.col("tokens").cast(pl.Float64),
}


def compare_measures(a: StoredReport, b: StoredReport, paired: Paired) -> Part:
    """Every measure that either report has: compared, or why it is not.

    What compares with a human reference or with the teacher is compared on the rows where that text is the same.
    Scores are those that were stored when each evaluation was made. Intervals have B's confidence.
    """
    compared: list[ComparedMeasure] = []
    left_out: list[NotCompared] = []
    for table in TABLES:
        left, right = a.measures(table), b.measures(table)
        for name in [*right, *(name for name in left if name not in right)]:
            why = _hindrance(table, name, a, b, paired)
            if why is None:
                found = _compare(table, right[name], b, paired)
                if found.difference.n:
                    compared.append(found)
                    continue
                why = "no comparable row has it on both sides"
            left_out.append(NotCompared(table=table, name=name, why=why))
    return Part(compared, left_out)


def as_compared(table: ComparedTable, measure: Measure, compared_with: Against | None = None) -> ComparedMeasure:
    """A measure of the systems `A` and `B` with the verdict that follows from their difference."""
    difference = measure.comparison(B, A) or measure.systems[B]  # the latter where there are no rows
    return ComparedMeasure(
        table=table,
        name=measure.name,
        label=measure.label,
        description=measure.description,
        unit=measure.unit,
        higher_is_better=measure.higher_is_better,
        against=compared_with,
        a=measure.systems[A],
        b=measure.systems[B],
        difference=difference,
        verdict=_verdict(measure),
    )


def score_column(table: ComparedTable, name: str) -> str:
    """The column with a text metric's score."""
    return vs_reference(name) if table == "quality" else vs_teacher(name)


def against(table: ComparedTable, name: str, report: StoredReport) -> Against | None:
    """What a measure compares an answer with; None where it judges the answer alone."""
    if table == "fidelity" or name == "length_ratio":
        return "teacher"
    return "reference" if table == "quality" and name in report.measures("fidelity") else None


def comparable(table: ComparedTable, name: str, report: StoredReport, paired: Paired) -> pl.Series:
    """Which rows may be compared on a measure: those whose text to compare with is the same on both sides."""
    match against(table, name, report):
        case "teacher":
            return paired.same_teacher
        case "reference":
            return paired.same_reference
        case _:
            return pl.repeat(True, len(paired.a), eager=True, dtype=pl.Boolean)


def _columns(table: TableName, name: str) -> Sequence[pl.Expr]:
    """What has to be known of a row: a value, the two parts of a rate, or the two labels of macro F1."""
    if table == "health":
        return [_HEALTH.get(name, pl.col(name))]
    if name in PER_TOKEN:
        return [pl.col(PER_TOKEN[name]), pl.col("kl_tokens")]
    if name == PERPLEXITY:
        return [pl.col("nll_sum"), pl.col("nll_tokens")]
    if name == MACRO_F1:
        return [pl.col(REFERENCE_LABEL if table == "quality" else TEACHER_LABEL), pl.col(LABEL)]
    return [pl.col(score_column(table, name))]


def _hindrance(table: TableName, name: str, a: StoredReport, b: StoredReport, paired: Paired) -> str | None:
    """Why a measure cannot be compared at all."""
    left, right = a.measures(table).get(name), b.measures(table).get(name)
    if left is None or right is None:
        return f"measured in {'A' if right is None else 'B'} only"
    if table != "health" and name not in _BUILT_IN and left.description != right.description:
        return f"declared otherwise: {left.description} in A, {right.description} in B"
    if name in PER_TOKEN and _teacher(a) != _teacher(b):
        return "the teacher's weights or dtype differ"
    needed = _roots(_columns(table, name))
    absent = [side for side, rows in (("A", paired.a), ("B", paired.b)) if not needed <= set(rows.columns)]
    if absent:
        return f"the predictions of {' and '.join(absent)} do not hold it"
    if name == PERPLEXITY and not _reads_the_same(paired):
        return "it is per token, and the students' tokenizers differ"
    return None


def _reads_the_same(paired: Paired) -> bool:
    """Whether both students read as many tokens in each of the teacher's answers that is the same on both sides."""
    differs = (paired.a["nll_tokens"] != paired.b["nll_tokens"]) & paired.same_teacher
    return not differs.any()


def _teacher(report: StoredReport) -> tuple[object, object]:
    return report.identity.versions.teacher, report.identity.decoding.get("teacher_dtype")


def _roots(columns: Sequence[pl.Expr]) -> set[str]:
    return {root for column in columns for root in column.meta.root_names()}


def _compare(table: TableName, stored: StoredMeasure, report: StoredReport, paired: Paired) -> ComparedMeasure:
    columns = _columns(table, stored.name)
    known = pl.all_horizontal(column.is_not_null() for column in columns).alias("known")
    kept = (
        comparable(table, stored.name, report, paired)
        & paired.a.select(known)["known"]
        & paired.b.select(known)["known"]
    )
    needed = [*KEY, "group_id", *sorted(_roots(columns))]
    rows = [
        side.filter(kept).select(*needed, model=pl.lit(name), split=pl.lit(Split.TEST.value))  # pairs are told by id
        for name, side in ((A, paired.a), (B, paired.b))
    ]
    measure = _measure(
        Scored(pl.concat(rows, how="vertical_relaxed"), report.confidence, DEFAULT_SEED), stored, columns
    )
    return as_compared(table, measure, against(table, stored.name, report))


def _measure(scored: Scored, stored: StoredMeasure, columns: Sequence[pl.Expr]) -> Measure:
    quantity = Quantity(stored.name, stored.label, stored.description, stored.unit, stored.higher_is_better)
    systems, pairs = (A, B), [(B, A)]
    if stored.name == MACRO_F1:
        return scored.macro_f1(quantity, columns[0].meta.output_name(), systems, pairs)
    if stored.name == PERPLEXITY:
        return scored.perplexity(quantity, systems, pairs)
    if len(columns) > 1:
        return scored.rate(quantity, columns[0], columns[1], systems, pairs)
    return scored.mean(quantity, columns[0], systems, pairs)


def _verdict(measure: Measure) -> Verdict | None:
    difference = measure.comparison(B, A)
    if difference is None or measure.higher_is_better is None or difference.value is None:
        return None
    if difference.method == Method.NO_VARIANCE and difference.value == 0:
        return "equal"
    if difference.interval is None:
        return None
    better = is_better(measure, difference)
    return "undecided" if better is None else "better" if better else "worse"
