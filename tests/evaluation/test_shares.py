"""Shares of the teacher's scores that students keep, and of its agreement with itself that they reach."""

import dataclasses
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.model import Measure
from distill_dagster.evaluation.write import write_evaluation
from tests.evaluation.conftest import make_spec
from tests.evaluation.probed import asked_again


def one(table: list[Measure], name: str) -> Measure:
    (found,) = [measure for measure in table if measure.name == name]
    return found


def test_every_student_has_its_share_of_the_teachers_quality(tmp_path: Path, side_by_side: EvaluationInputs) -> None:
    report = write_evaluation(tmp_path, side_by_side)

    kept = one(report.retention, "rouge_l").systems
    assert list(kept) == ["student", "student/soft", "student/on_references", "base"]
    assert kept["student"] == report.quality_kept
    assert kept["student/soft"] == kept["student"]
    assert kept["student/on_references"] == kept["base"] != kept["student"]
    assert all(share.interval is not None and share.n == 71 for share in kept.values())


def test_the_page_shows_them(tmp_path: Path, side_by_side: EvaluationInputs) -> None:
    report = write_evaluation(tmp_path, side_by_side)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")

    shares = [report.retention[0].systems[name] for name in ("student", "student/soft", "student/on_references")]
    facts = page.partition('<th scope="row">Quality kept</th>')[2].partition("</tr>")[0]
    assert [f"<td>{share.value:.1%}".replace("%", "\N{NO-BREAK SPACE}%") in facts for share in shares] == [True] * 3
    assert "Share of the teacher’s quality that is kept" in page


def test_what_has_no_share_is_left_out(tmp_path: Path, inputs: EvaluationInputs, hosted: EvaluationInputs) -> None:
    never = inputs.test.with_columns(reference=pl.lit("nothing of the kind"))
    spec = make_spec(metrics=["exact_match", "macro_f1", "rouge_l"], gate=None)
    report = write_evaluation(tmp_path / "none", dataclasses.replace(inputs, spec=spec, test=never))

    assert [measure.name for measure in report.retention] == ["rouge_l"]  # the teacher scores 0 on the other
    assert write_evaluation(tmp_path / "hosted", hosted).retention == []


def test_the_teachers_agreement_with_itself_is_the_ceiling(tmp_path: Path, hosted: EvaluationInputs) -> None:
    report = write_evaluation(tmp_path, asked_again(hosted))

    closeness, reached = one(report.fidelity, "chrf"), report.second_sample
    assert list(closeness.systems) == ["teacher_again", "student", "base"]
    assert closeness.comparison("student", "teacher_again") is not None
    assert reached is not None
    assert (reached.prompts, reached.unanswered) == (71, 0)
    share = one(reached.reached, "chrf").systems["student"]
    values = [closeness.systems[name].value for name in ("student", "teacher_again")]
    assert share.value == pytest.approx(values[0] / values[1])
    (said,) = [line for line in report.headlines if "agreement with itself" in line]
    assert said.startswith(f"The student reaches {share.value:.1%}".replace("%", "\N{NO-BREAK SPACE}%"))


def test_only_rows_that_were_asked_again_count(tmp_path: Path, hosted: EvaluationInputs) -> None:
    report = write_evaluation(tmp_path, asked_again(hosted, 20))

    closeness, reached = one(report.fidelity, "chrf"), report.second_sample
    assert (closeness.systems["teacher_again"].n, closeness.systems["student"].n) == (20, 71)
    assert reached is not None
    assert reached.prompts == 20
    assert {share.n for measure in reached.reached for share in measure.systems.values()} == {20}
    models = pl.read_parquet(tmp_path / "predictions.parquet")["model"].value_counts()
    assert dict(models.iter_rows())["teacher_again"] == 20


def test_a_second_answer_that_never_came_scores_0(tmp_path: Path, hosted: EvaluationInputs) -> None:
    again = asked_again(hosted)
    is_first = (pl.col("model") == "teacher_again") & (pl.col("prompt_id") == hosted.test["prompt_id"][0])
    lost = again.generated.with_columns(prediction=pl.when(~is_first).then("prediction"))

    whole = write_evaluation(tmp_path / "whole", again)
    report = write_evaluation(tmp_path / "lost", dataclasses.replace(again, generated=lost))

    assert report.second_sample is not None
    assert report.second_sample.unanswered == 1
    ceilings = [one(made.fidelity, "chrf").systems["teacher_again"] for made in (report, whole)]
    assert ceilings[0].n == ceilings[1].n == 71
    assert ceilings[0].value < ceilings[1].value
    assert "1 of them it did not answer this time" in (tmp_path / "lost" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("inputs", "The teacher answers greedily: asked again it says the same"),
        ("hosted", "<code>evaluation.teacher_resample</code> asks it once more"),
    ],
)
def test_without_second_answers_the_page_says_why(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, said: str
) -> None:
    report = write_evaluation(tmp_path, request.getfixturevalue(kind))

    assert report.second_sample is None
    assert said in (tmp_path / "report.html").read_text(encoding="utf-8")
