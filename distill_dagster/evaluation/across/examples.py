"""Chooses the rows worth reading: where B lost most to A, where it gained most, and some of the other changes."""

import polars as pl

from distill_dagster.evaluation.across.measures import comparable, score_column
from distill_dagster.evaluation.across.model import ComparedMeasure, ComparedTable, Examples, ScoredRow
from distill_dagster.evaluation.across.pairing import Paired
from distill_dagster.evaluation.across.stored_report import StoredReport
from distill_dagster.evaluation.predictions import KEY
from distill_dagster.lineage.hashing import sha256_text
from distill_dagster.spec.metrics import MACRO_F1

REGRESSIONS = 10
GAINS = 5
OTHERS = 5
_BY_ROW: tuple[ComparedTable, ...] = ("quality", "fidelity")


def choose_examples(report: StoredReport, measures: list[ComparedMeasure], paired: Paired) -> Examples:
    """Rows by their scores on B's main metric where it was compared, else on the first metric that was.

    Scores against the human reference go before those against the teacher's answers.

    Args:
        report: B's.
    """
    scorer = _scorer(report.primary_metric, measures)
    scores = _scores(scorer, report, paired)
    loss = pl.col("a") - pl.col("b")
    regressions = scores.filter(loss > 0).sort(loss, *KEY, descending=[True, False, False]).head(REGRESSIONS)
    gains = scores.filter(loss < 0).sort(loss, *KEY).head(GAINS)
    changed = scores.filter(paired.changed).join(pl.concat([regressions, gains]), on=KEY, how="anti")
    by_hash = pl.col("prompt_id").map_elements(sha256_text, return_dtype=pl.String)
    return Examples(
        measure=scorer and scorer.name,
        table=scorer and scorer.table,
        regressions=_rows(regressions),
        gains=_rows(gains),
        others=_rows(changed.sort(by_hash, "sample").head(OTHERS)),
    )


def _scorer(primary: str, measures: list[ComparedMeasure]) -> ComparedMeasure | None:
    scores = [one for one in measures if one.table in _BY_ROW and one.unit == "score" and one.name != MACRO_F1]
    return min(scores, key=lambda one: one.name != primary, default=None)


def _scores(scorer: ComparedMeasure | None, report: StoredReport, paired: Paired) -> pl.DataFrame:
    """prompt_id, sample, and both scores; null where a row may not be compared."""
    keys = paired.a.select(KEY)
    if scorer is None:
        return keys.with_columns(a=pl.lit(None, dtype=pl.Float64), b=pl.lit(None, dtype=pl.Float64))
    column = score_column(scorer.table, scorer.name)
    kept = comparable(scorer.table, scorer.name, report, paired)
    both = keys.with_columns(paired.a[column].alias("a"), paired.b[column].alias("b"), kept.alias("kept"))
    return both.select(*KEY, *(pl.when("kept").then(name).alias(name) for name in ("a", "b")))


def _rows(rows: pl.DataFrame) -> list[ScoredRow]:
    return [ScoredRow.model_validate(row) for row in rows.iter_rows(named=True)]
