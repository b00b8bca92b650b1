"""Two evaluations on the rows of both: what is compared, with which numbers, and what is said to have changed."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.across.compare import compare_evaluations, timeline
from distill_dagster.evaluation.across.model import ComparedMeasure, EvaluationComparison
from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.model import EvaluationReport
from distill_dagster.evaluation.statistics import mean_estimate
from distill_dagster.project import Distillation
from tests.evaluation.across.shelf import AT, answering, distillation_in, publish, retrained, small_inputs

Compare = Callable[[EvaluationInputs, EvaluationInputs], EvaluationComparison]


@pytest.fixture
def distillation(tmp_path: Path) -> Distillation:
    return distillation_in(tmp_path)


@pytest.fixture
def compare(distillation: Distillation) -> Compare:
    """Publishes both and compares them."""

    def both(a: EvaluationInputs, b: EvaluationInputs) -> EvaluationComparison:
        left, right = publish(distillation, a, current=False), publish(distillation, b)
        return compare_evaluations(distillation, left, right)[0]

    return both


def measure(comparison: EvaluationComparison, table: str, name: str) -> ComparedMeasure:
    (found,) = [one for one in comparison.measures if (one.table, one.name) == (table, name)]
    return found


def why_not(comparison: EvaluationComparison) -> dict[tuple[str, str], str]:
    return {(one.table, one.name): one.why for one in comparison.not_compared}


def test_two_students_differ_as_they_do_in_one_report(compare: Compare, side_by_side: EvaluationInputs) -> None:
    """The paired differences within a report are an oracle: same rows, same groups, other code to pair them."""
    spec = small_inputs().spec
    a = dataclasses.replace(side_by_side, spec=spec)
    other = side_by_side.companions[1]
    is_other = pl.col("model") == "student/on_references"
    assert side_by_side.fidelity is not None
    renamed = pl.when(is_other).then(pl.lit("student")).otherwise("model").alias("model")
    kept = is_other | pl.col("model").is_in(["base", "bigram", "most_frequent"])
    b = dataclasses.replace(
        a,
        student=dataclasses.replace(other, name="soft"),
        companions=(),
        versions=a.versions.model_copy(update={"student": other.version}),
        spec=spec.model_copy(update={"students": {"soft": spec.students["sft"]}}),
        generated=a.generated.filter(kept).with_columns(renamed),
        fidelity=side_by_side.fidelity.filter(kept).with_columns(renamed),
    )

    comparison = compare(a, b)

    path = Path(comparison.a.report).with_name("report.json")
    report = EvaluationReport.model_validate_json(path.read_text(encoding="utf-8"))
    compared = 0
    for table in ("quality", "fidelity", "health"):
        for row in getattr(report, table):
            expected = row.comparison("student", "student/on_references")
            found = measure(comparison, table, row.name)
            assert found.difference.value == pytest.approx(-expected.value, rel=1e-12), row.name
            assert (found.difference.n, found.difference.n_clusters) == (expected.n, expected.n_clusters)
            ends = None if expected.interval is None else (-expected.high, -expected.low)
            assert found.difference.interval == (ends and pytest.approx(ends, rel=1e-9, abs=1e-12)), row.name
            compared += 1
    assert compared == len(comparison.measures) == 11
    assert measure(comparison, "fidelity", "forward_kl").verdict == "worse"
    assert comparison.findings[1].startswith(f"“{comparison.b.name}” is worse than “{comparison.a.name}” on forward KL")


def test_the_same_answers_are_equal_and_nothing_else_is_said(compare: Compare) -> None:
    comparison = compare(small_inputs(), retrained(small_inputs(), "be" * 16))

    directed = [one for one in comparison.measures if one.higher_is_better is not None]
    assert {one.verdict for one in directed} == {"equal"}
    assert {one.difference.value for one in comparison.measures} == {0.0}
    assert [one.verdict for one in comparison.measures if one.higher_is_better is None] == [None, None]
    assert (comparison.examples.regressions, comparison.examples.gains, comparison.examples.others) == ([], [], [])
    assert comparison.findings[-1].startswith("0 of 71 answers differ")
    assert [(change.what, change.b) for change in comparison.changes] == [("versions.student", "be" * 16)]


def test_only_common_rows_with_the_same_prompt_count(compare: Compare) -> None:
    a = small_inputs()
    b = answering(a, pl.col("completion"))
    kept = AT >= 20
    assert b.fidelity is not None
    b = dataclasses.replace(
        b,
        test=b.test.filter(kept).with_columns(text=pl.when(AT < 30).then(pl.lit("reworded")).otherwise("text")),
        generated=b.generated.filter(kept),
        fidelity=b.fidelity.filter(kept),
    )

    comparison = compare(a, b)

    rows = comparison.rows
    assert (rows.both, rows.only_a, rows.only_b, rows.other_text) == (41, 20, 0, 10)
    found = measure(comparison, "fidelity", "rouge_l")
    assert (found.a.n, found.b.n, found.difference.n) == (41, 41, 41)
    assert (found.b.value, found.verdict) == (1.0, "better")
    ours = pl.read_parquet(Path(comparison.a.report).with_name("predictions.parquet")).filter(
        (pl.col("model") == "student") & (AT >= 30)
    )
    losses = 1 - ours["rouge_l_vs_teacher"].to_numpy()
    assert found.difference.value == pytest.approx(np.mean(losses))
    expected = mean_estimate(losses, ours["group_id"].to_list())
    assert found.difference.interval == pytest.approx(expected.interval)


def test_what_is_compared_with_has_to_be_the_same_text(compare: Compare) -> None:
    a = small_inputs(metrics=["rouge_l", {"regex": "^[A-Z]"}])
    corrected = a.test.with_columns(
        reference=pl.when(AT < 5).then(pl.lit("a better one")).otherwise("reference"),
        completion=pl.when(AT >= 68).then(pl.lit("asked again")).otherwise("completion"),
    )

    comparison = compare(a, dataclasses.replace(a, test=corrected))

    assert (comparison.rows.other_reference, comparison.rows.other_teacher_answer) == (5, 3)
    ns = {(one.table, one.name): one.difference.n for one in comparison.measures}
    assert ns["quality", "rouge_l"] == 66
    assert ns["fidelity", "rouge_l"] == ns["fidelity", "top1"] == ns["health", "length_ratio"] == 68
    assert ns["quality", "regex"] == ns["health", "tokens"] == 71
    against = {(one.table, one.name): one.against for one in comparison.measures}
    assert (against["quality", "rouge_l"], against["quality", "regex"]) == ("reference", None)


@pytest.mark.parametrize("change", ["weights", "dtype"])
def test_measures_per_token_need_the_same_teacher(compare: Compare, change: str) -> None:
    a = small_inputs()
    teacher = a.spec.teacher.model_copy(update={"dtype": "float32"})
    b = {
        "weights": dataclasses.replace(a, versions=a.versions.model_copy(update={"teacher": "7f" * 32})),
        "dtype": dataclasses.replace(a, spec=a.spec.model_copy(update={"teacher": teacher})),
    }[change]

    comparison = compare(a, b)

    assert why_not(comparison) == {
        ("fidelity", "forward_kl"): "the teacher's weights or dtype differ",
        ("fidelity", "top1"): "the teacher's weights or dtype differ",
    }
    assert measure(comparison, "fidelity", "rouge_l").difference.n == 71


def test_perplexity_needs_the_same_tokens(compare: Compare) -> None:
    a = small_inputs()
    assert a.fidelity is not None
    longer = pl.when(pl.col("model") == "student").then(pl.col("tokens") + 1).otherwise("tokens")
    b = dataclasses.replace(a, fidelity=a.fidelity.with_columns(tokens=longer, kl_sum=None, top1_hits=None))

    comparison = compare(a, b)

    assert why_not(comparison)["fidelity", "perplexity"] == "it is per token, and the students' tokenizers differ"


def test_metrics_of_one_side_or_of_another_meaning_are_named(compare: Compare) -> None:
    a = small_inputs(metrics=["rouge_l", "chrf", {"regex": "^[A-Z]", "name": "tidy"}])
    b = small_inputs(metrics=["rouge_l", "exact_match", {"regex": "[.]$", "name": "tidy"}])

    comparison = compare(a, b)

    assert why_not(comparison) == {
        ("quality", "exact_match"): "measured in B only",
        ("quality", "tidy"): "declared otherwise: the answer matches ^[A-Z] in A, the answer matches [.]$ in B",
        ("quality", "chrf"): "measured in A only",
        ("fidelity", "exact_match"): "measured in B only",
        ("fidelity", "chrf"): "measured in A only",
    }


def test_without_references_closeness_is_compared(compare: Compare, hosted: EvaluationInputs) -> None:
    a = dataclasses.replace(hosted, spec=small_inputs().spec)

    comparison = compare(a, answering(a, pl.col("completion")))

    assert why_not(comparison)["quality", "rouge_l"] == "no comparable row has it on both sides"
    assert (comparison.examples.table, comparison.examples.measure) == ("fidelity", "rouge_l")
    assert measure(comparison, "fidelity", "exact_match").verdict == "better"


def test_macro_f1_is_that_of_the_common_rows(compare: Compare) -> None:
    label = pl.when(AT % 2 == 0).then(pl.lit("yes")).otherwise(pl.lit("no"))
    a = small_inputs(metrics=["label_accuracy", "macro_f1"])
    a = dataclasses.replace(a, test=a.test.with_columns(reference=label, completion=label))
    wrong = answering(a, pl.when(AT % 10 == 0).then(pl.lit("no")).otherwise(label))

    comparison = compare(wrong, answering(a, label))

    found = measure(comparison, "quality", "macro_f1")
    # 8 of 36 “yes” are called “no”: F1 is 56/64 and 70/78
    assert found.a.value == pytest.approx((56 / 64 + 70 / 78) / 2)
    assert (found.b.value, found.verdict) == (1.0, "better")
    assert found.difference.value == pytest.approx(1 - (56 / 64 + 70 / 78) / 2)


def test_labels_that_were_not_stored_are_said_to_be_missing(distillation: Distillation) -> None:
    a = small_inputs(metrics=["label_accuracy", "macro_f1"])
    label = pl.lit("yes")
    a = dataclasses.replace(a, test=a.test.with_columns(reference=label, completion=label))
    first, second = publish(distillation, a, current=False), publish(distillation, retrained(a, "be" * 16))
    path = first.folder / "predictions.parquet"
    pl.read_parquet(path).drop("label").write_parquet(path)

    comparison, _ = compare_evaluations(distillation, first, second)

    assert why_not(comparison)["quality", "macro_f1"] == "the predictions of A do not hold it"


def test_what_changed_in_the_order_of_a_pipeline(compare: Compare) -> None:
    a = small_inputs()
    student = a.spec.students["sft"]
    settings = {"learning_rate": 0.5, "lora": {"r": 8}, "seeds": [1, 2]}
    declared = student.model_validate({**student.model_dump(exclude_unset=True), **settings})
    spec = small_inputs(metrics=["rouge_l"], max_tokens=48, confidence=0.9).spec
    b = dataclasses.replace(
        retrained(a, "be" * 16),
        spec=spec.model_copy(update={"students": {"sft": declared}}),
        spec_hash="5f" * 32,
        versions=a.versions.model_copy(update={"student": "be" * 16, "dataset": "db" * 32}),
        rows_per_split={"train": 700, "validation": 68, "test": 71},
    )

    comparison = compare(a, b)

    changes = {change.what: (change.a, change.b) for change in comparison.changes}
    assert changes["declared.learning_rate"] == (student.learning_rate, 0.5)
    assert changes["declared.lora.r"] == (None, 8)
    assert changes["declared.seeds"][1] == [1, 2]
    assert changes["versions.dataset"] == ("da" * 32, "db" * 32)
    assert changes["rows.train"] == (602, 700)
    assert changes["decoding.max_tokens"] == (96, 48)
    assert changes["evaluation.metrics"][1] == ["forward_kl", "perplexity", "rouge_l", "top1"]
    assert changes["evaluation.confidence"] == (0.95, 0.9)
    assert changes["spec_hash"] == ("5e" * 32, "5f" * 32)
    heads = list(dict.fromkeys(what.split(".")[0] for what in changes))
    assert heads == ["versions", "rows", "declared", "decoding", "evaluation", "spec_hash"]
    assert comparison.confidence == measure(comparison, "quality", "rouge_l").difference.confidence == 0.9


def test_examples_are_the_largest_losses_and_gains_and_other_changes(compare: Compare) -> None:
    a = small_inputs()
    lost, gained = AT.is_in([3, 40]), AT.is_in([9, 50])
    b = answering(
        a,
        pl.when(lost).then(pl.lit("no")).when(gained).then("reference").otherwise(pl.col("prediction") + " "),
    )

    comparison = compare(a, b)

    examples = comparison.examples
    numbers = {
        name: [int(row.prompt_id[:4]) for row in getattr(examples, name)] for name in ("regressions", "gains", "others")
    }
    assert set(numbers["regressions"]) == {3, 40}
    assert set(numbers["gains"]) == {9, 50}
    losses = [(row.a or 0) - (row.b or 0) for row in examples.regressions]
    assert losses == sorted(losses, reverse=True)
    assert len(numbers["others"]) == 5
    assert not set(numbers["others"]) & {3, 9, 40, 50}
    assert numbers["others"] != sorted(numbers["others"])  # by hash, so that nobody chose them


def test_nothing_in_common_is_an_error(distillation: Distillation) -> None:
    a = small_inputs()
    reworded = dataclasses.replace(a, test=a.test.with_columns(text=pl.lit("reworded")))
    first, second = publish(distillation, a), publish(distillation, reworded)

    with pytest.raises(EvaluationError, match=r"no row with the same prompt \(71 have the same id and another text\)"):
        compare_evaluations(distillation, first, second)


def test_a_timeline_has_each_ones_own_number(distillation: Distillation, hosted: EvaluationInputs) -> None:
    publish(distillation, small_inputs(), hour=0, current=False)
    publish(distillation, dataclasses.replace(hosted, spec=small_inputs().spec), hour=1)
    publish(distillation, small_inputs(metrics=[{"regex": "^[A-Z]"}]), hour=2, current=False)

    first, second, third = timeline(distillation).evaluations

    assert (first.metric, first.against, first.estimate.n) == ("rouge_l", "reference", 71)
    assert (second.against, second.current, second.teacher_version) == ("teacher", True, None)
    assert (third.metric, third.against) == ("regex", None)
    assert second.estimate.value > first.estimate.value


def test_a_timeline_of_nothing_is_an_error(distillation: Distillation) -> None:
    with pytest.raises(EvaluationError, match="faq: no evaluation yet; `distill run faq` makes one"):
        timeline(distillation)
