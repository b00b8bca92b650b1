"""What two evaluations have beside the test split's tables: held-out partitions, a judge, tasks of the harness."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.evaluation.across.compare import compare_evaluations
from distill_dagster.evaluation.across.model import EvaluationComparison
from distill_dagster.evaluation.across.page import render_comparison
from distill_dagster.evaluation.harness_files import SAMPLES_FILE
from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.judged import Judged
from distill_dagster.evaluation.predictions import build_predictions
from distill_dagster.evaluation.statistics import Method, mean_estimate, paired_difference
from distill_dagster.judging.pairs import JUDGED, choose_pairs
from distill_dagster.judging.prompts import OTHER_FIRST, STUDENT_FIRST
from distill_dagster.lineage.manifests import Manifest, write_manifest
from distill_dagster.project import Distillation
from tests.evaluation.across.shelf import AT, distillation_in, publish, retrained, small_inputs
from tests.evaluation.across.test_compare import measure, why_not
from tests.evaluation.conftest import ROWS
from tests.evaluation.probed import declared, with_held_out
from tests.evaluation.test_harness_table import make_table, outcome
from tests.evaluation.test_report import Page

JUDGE = {"provider": "anthropic", "model": "claude-opus-5-5", "against": ["teacher", "base", "reference"]}
AT_AWAY = pl.col("prompt_id").str.slice(5, 4).cast(pl.Int64)
"""A row's number in the held-out split of `with_held_out`."""
FIRST, SECOND = [0, 0, 1, 0, 0, 1, 0, 1], [1, 0, 1, 1, 1, 1, 1, 1]
"""Right answers of two students to the rows of a task."""
Said = Callable[[int], str | None]


@pytest.fixture
def distillation(tmp_path: Path) -> Distillation:
    return distillation_in(tmp_path)


def compared(distillation: Distillation, a: EvaluationInputs, b: EvaluationInputs) -> EvaluationComparison:
    left, right = publish(distillation, a, current=False), publish(distillation, retrained(b, "be" * 16))
    return compare_evaluations(distillation, left, right)[0]


def judged(inputs: EvaluationInputs, said: Said, **judge: object) -> EvaluationInputs:
    """The same with a judge whose verdict on a row, by its number, is the same in both orders; None is unusable."""
    inputs = declared(inputs, judge={**JUDGE, **judge})
    spec = inputs.spec.evaluation.judge
    assert spec is not None
    pairs = choose_pairs(build_predictions(inputs.test, inputs.generated, None, ()), spec)
    verdicts = [
        (key, sample, group, opponent, order, verdict, None if verdict else "refused", f"{opponent}{key}{order}")
        for key, sample, group, opponent in pairs.select("prompt_id", "sample", "group_id", "opponent").iter_rows()
        for verdict in [said(int(key[:4]))]
        for order in (STUDENT_FIRST, OTHER_FIRST)
    ]
    return dataclasses.replace(inputs, judged=Judged(pairs, pl.DataFrame(verdicts, JUDGED, orient="row")))


def test_win_rates_are_compared_on_pairs_that_differ_in_the_students_answer_alone(distillation: Distillation) -> None:
    a = judged(small_inputs(), lambda at: "student" if at % 4 == 0 else "other")
    other = small_inputs()
    corrected = other.test.with_columns(
        completion=pl.when(AT >= 60).then(pl.lit("asked again")).otherwise("completion")
    )
    b = judged(
        dataclasses.replace(other, test=corrected), lambda at: None if at < 5 else "tie" if at % 2 else "student"
    )

    comparison = compared(distillation, a, b)

    rows = range(5, 60)
    groups = a.test["group_id"].to_list()[5:60]
    first = [float(at % 4 == 0) for at in rows]
    second = [0.5 if at % 2 else 1.0 for at in rows]
    found = measure(comparison, "judge", "teacher")
    assert found.a == mean_estimate(first, groups)
    assert found.b == mean_estimate(second, groups)
    assert found.difference == paired_difference(second, first, groups)
    assert (found.verdict, found.unit) == ("better", "share")
    assert (
        measure(comparison, "judge", "base").difference.n == measure(comparison, "judge", "reference").a.n == ROWS - 5
    )
    assert any("better than" in line and "on win rate against the teacher" in line for line in comparison.findings)


def test_another_judge_or_rubric_is_not_compared(distillation: Distillation) -> None:
    a = judged(small_inputs(), lambda _: "student", against=["teacher", "base"])
    rubric = judged(small_inputs(), lambda _: "student", rubric="Brief.", against=["base", "reference"])

    assert why_not(compared(distillation, a, rubric)) == {
        ("judge", "base"): "the rubrics differ",
        ("judge", "reference"): "judged in B only",
        ("judge", "teacher"): "judged in A only",
    }


def test_held_out_rows_are_compared_apart(distillation: Distillation) -> None:
    a = with_held_out(small_inputs())
    assert a.held_out is not None
    left_out = AT_AWAY < 6
    away = dataclasses.replace(
        a.held_out,
        rows=a.held_out.rows.filter(~left_out),
        generated=a.held_out.generated.filter(~left_out).with_columns(
            prediction=pl.when(pl.col("model") == "student").then(pl.lit("no")).otherwise("prediction")
        ),
        fidelity=None if a.held_out.fidelity is None else a.held_out.fidelity.filter(~left_out),
    )

    comparison = compared(distillation, a, dataclasses.replace(a, held_out=away))

    assert comparison.held_out_rows is not None
    assert comparison.held_out_rows.model_dump(include={"both", "only_a", "only_b", "changed_answers"}) == {
        "both": 30, "only_a": 6, "only_b": 0, "changed_answers": 30,
    }  # fmt: skip
    lost, home = measure(comparison, "held_out_quality", "rouge_l"), measure(comparison, "quality", "rouge_l")
    assert (lost.difference.n, lost.verdict, lost.against) == (30, "worse", "reference")
    assert (home.difference.n, home.verdict) == (ROWS, "equal")
    kept = measure(comparison, "held_out_fidelity", "forward_kl")
    assert (kept.difference.n, kept.verdict) == (30, "equal")
    assert any("on ROUGE-L vs reference, held out" in line for line in comparison.findings)
    assert comparison.examples.regressions == []


def store(distillation: Distillation, key: str, scores: list[int], tasks: str) -> None:
    """A model's rows in the harness's task."""
    folder = distillation.files.asset("harness") / key
    folder.mkdir(parents=True)
    outcome(scores).samples.write_parquet(folder / SAMPLES_FILE)
    write_manifest(folder, Manifest("faq", "harness", key, key, {"model": "57" * 32, "tasks": tasks}, "5e" * 32))


def with_tasks(distillation: Distillation, tasks: str = "7a" * 32, gone: str | None = None) -> EvaluationComparison:
    """Of a student that passes three rows of eight and one that passes seven; rows that are `gone` are not stored."""
    sides = []
    for key, scores, files in (("1a" * 16, FIRST, "7a" * 32), ("2a" * 16, SECOND, tasks)):
        store(distillation, key, scores, files)
        inputs = dataclasses.replace(small_inputs(), harness=make_table({"student": outcome(scores)}))
        sides.append(publish(distillation, retrained(inputs, key), outcomes={"student": key}))
    if gone:
        shutil.rmtree(distillation.files.asset("harness") / gone)
    return compare_evaluations(distillation, *sides)[0]


def test_tasks_are_paired_by_row(distillation: Distillation) -> None:
    found = measure(with_tasks(distillation), "harness", "quiz/acc")

    own = list(range(8))
    assert (found.a, found.b) == (mean_estimate(FIRST, own), mean_estimate(SECOND, own))
    assert found.difference == paired_difference(SECOND, FIRST, own)
    assert (found.label, found.description, found.verdict) == ("quiz: acc", "version 1.0, 5-shot", "better")


def test_a_metric_that_is_no_mean_has_a_difference_without_an_interval(distillation: Distillation) -> None:
    found = measure(with_tasks(distillation), "harness", "quiz/perplexity")

    assert (found.difference.value, found.difference.method, found.verdict) == (0.0, Method.NO_ROW_SCORES, None)


@pytest.mark.parametrize(
    ("tasks", "gone", "why"),
    [
        ("7b" * 32, None, "the files of the tasks differ"),
        ("7a" * 32, "1a" * 16, "the rows of A are not stored"),
    ],
)
def test_where_rows_cannot_be_paired_the_difference_is_wider_and_says_why(
    distillation: Distillation, tasks: str, gone: str | None, why: str
) -> None:
    found = measure(with_tasks(distillation, tasks, gone), "harness", "quiz/acc")

    assert found.difference.value == pytest.approx(4 / 8)
    assert (found.difference.method, found.difference.n) == (Method.WELCH_T, 16)
    assert found.description == f"version 1.0, 5-shot; not paired: {why}"
    paired = paired_difference(SECOND, FIRST, list(range(8)), found.difference.confidence).interval
    assert paired is not None
    assert found.difference.interval is not None
    assert found.difference.interval[0] < paired[0]


def test_tasks_run_otherwise_are_not_compared(distillation: Distillation) -> None:
    table = make_table({"student": outcome(FIRST)})
    a = dataclasses.replace(small_inputs(), harness=table)
    b = dataclasses.replace(small_inputs(), harness=table.model_copy(update={"limit": None}))

    left_out = why_not(compared(distillation, a, b))

    assert left_out["harness", "quiz/acc"] == (
        "run otherwise: version 1.0, 5-shot, at most 8 rows, with chat template in A, "
        "version 1.0, 5-shot, all rows, with chat template in B"
    )


def test_what_one_side_lacks_is_said_and_what_both_lack_is_not(distillation: Distillation) -> None:
    plain = small_inputs()
    rich = dataclasses.replace(
        judged(with_held_out(plain), lambda _: "tie"), harness=make_table({"student": outcome(FIRST)})
    )

    assert why_not(compared(distillation, plain, plain)) == {}
    assert why_not(compared(distillation, plain, rich)) == {
        ("held_out_quality", "every measure"): "no partition is held out in A",
        ("judge", "every measure"): "no judge in A",
        ("harness", "every measure"): "no task of the harness was run in A",
    }


def test_the_page_has_a_table_of_each(distillation: Distillation) -> None:
    a = dataclasses.replace(
        judged(with_held_out(small_inputs()), lambda _: "tie"), harness=make_table({"student": outcome(FIRST)})
    )
    left, right = publish(distillation, a, current=False), publish(distillation, retrained(a, "be" * 16))

    text = " ".join(" ".join(Page(render_comparison(*compare_evaluations(distillation, left, right))).texts).split())

    for title in ("Held-out partitions: quality", "Judged in pairs", "Tasks of lm-evaluation-harness"):
        assert title in text
    assert "Held out, compared: same prompt in both 36" in text
    assert "quiz: acc version 1.0, 5-shot; not paired: the rows of A and B are not stored; higher is better" in text
