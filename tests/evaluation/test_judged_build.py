"""An evaluation with a judge: asked over HTTP once, then part of the key, the report, the page and the estimate."""

import dataclasses
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.errors import BudgetError
from distill_dagster.evaluation.build import EvaluationBuild, build_evaluation, evaluation_current
from distill_dagster.evaluation.judge_estimate import estimate_judge
from distill_dagster.judging.pairs import JUDGED
from tests.evaluation.test_build import Bench, checkpoints, no_worker
from tests.fakes.anthropic_server import AnthropicServer
from tests.judging.judges import always_first, longer, script

__all__ = ["checkpoints"]
JUDGE = {"provider": "anthropic", "model": "claude-opus-5-5", "against": ["teacher", "base"]}


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path, checkpoints: dict[str, Path], claude: AnthropicServer) -> Bench:
    """A trained student, and a judge who likes long answers."""
    claude.script = script(longer)
    bench = Bench(tmp_path, tiny_model, checkpoints)
    bench.declare(judge=JUDGE)
    bench.train("first")
    return bench


def judgements(build: EvaluationBuild) -> pl.DataFrame:
    return pl.read_parquet(build.folder / "judgements.parquet")


def test_the_verdicts_are_in_report_page_and_folder(bench: Bench, claude: AnthropicServer) -> None:
    build = bench.evaluate("first")

    report, rows = build.report(), judgements(build)
    tables = {table.opponent: table for table in report.judge}
    assert [*tables] == ["teacher", "base"]
    assert [table.pairs for table in report.judge] == [3, 3]
    by_length = rows.filter(opponent="teacher", order="student_first").select(
        won=(pl.col("student_chars") > pl.col("other_chars")).sum(),
        lost=(pl.col("student_chars") < pl.col("other_chars")).sum(),
    )
    assert (tables["teacher"].wins, tables["teacher"].losses) == by_length.row(0)
    assert [sentence for sentence in report.headlines if "claude-opus-5-5 (anthropic) against the teacher" in sentence]
    assert "Judged side by side" in build.report_path.read_text(encoding="utf-8")
    assert "| student against |" in build.markdown()
    assert rows.columns == [*JUDGED, "outcome", "score", "student_chars", "other_chars"]
    assert len(rows) == 12
    assert len(claude.accepted) == rows["request_key"].drop_nulls().n_unique() > 0


def test_a_forced_evaluation_pays_nothing_and_has_the_same_bytes(bench: Bench, claude: AnthropicServer) -> None:
    first = bench.evaluate("first")
    asked, told = len(claude.accepted), (first.folder / "report.json").read_bytes()
    claude.script = script(always_first)

    adopted = bench.evaluate("first")
    forced = build_evaluation(bench.distillation, "first", no_worker, rebuild=True)

    assert (adopted.evaluated, forced.evaluated) == (False, True)
    assert (forced.folder / "report.json").read_bytes() == told
    assert adopted.version == forced.version == first.version
    assert len(claude.accepted) == asked


def test_what_decides_a_verdict_makes_the_evaluation_due(bench: Bench, claude: AnthropicServer) -> None:
    first = bench.evaluate("first")

    def is_current(**judge: object) -> bool:
        bench.declare(judge=JUDGE | judge)
        return evaluation_current(bench.distillation, "first")

    assert is_current(concurrency=1, transport="auto", requests_per_minute=50)
    assert not is_current(rubric="Kind.")
    assert not is_current(model="claude-haiku-4-5")
    assert not is_current(rows=2)
    bench.declare()
    assert not evaluation_current(bench.distillation, "first")
    bench.declare(judge=JUDGE | {"rubric": "The one shown first."})
    claude.script = script(always_first)
    second = bench.evaluate("first")
    assert second.version != first.version
    assert {table.flips for table in second.report().judge} == {3}
    assert len(bench.jobs) == 1  # answers stay


def test_the_judge_is_stopped_by_the_budget_and_the_answers_stay(bench: Bench) -> None:
    spec = bench.distillation.spec
    tight = spec.model_copy(update={"teacher": spec.teacher.model_copy(update={"budget_usd": Decimal("0.001")})})
    bench.distillation = dataclasses.replace(bench.distillation, spec=tight)

    with pytest.raises(BudgetError, match=r"evaluation\.judge: tiny: .*budget_usd"):
        bench.evaluate("first")

    assert len(bench.stored) == 3


def test_an_estimate_is_exact_once_the_student_has_answered(bench: Bench, claude: AnthropicServer) -> None:
    bench.declare()
    bench.evaluate("first")
    bench.declare(judge=JUDGE)

    before = estimate_judge(bench.distillation)
    assert before is not None
    assert claude.accepted == []
    first = bench.evaluate("first")
    asked = len(claude.accepted)
    after = estimate_judge(bench.distillation)

    assert after is not None
    own = judgements(first)["request_key"].drop_nulls().n_unique()
    assert (after.stored, asked) == (own, own)
    assert after.missing == before.missing - own
    assert 0 < after.most_microusd < before.most_microusd
    assert "answers of second taken to be as long as the teacher’s" in after.basis
    bench.train("second")
    bench.evaluate("second")
    bench.evaluate("first")
    whole = estimate_judge(bench.distillation)
    assert whole is not None
    assert (whole.missing, whole.most_microusd) == (0, 0)
    assert whole.basis == "the answers of the current evaluations"
