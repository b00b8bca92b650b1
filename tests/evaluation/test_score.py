"""The report's numbers and sentences."""

import dataclasses
import math

import polars as pl
import pytest

from distill_dagster.evaluation.headlines import compare, is_better
from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.model import (
    PERPLEXITY,
    Comparison,
    EvaluationReport,
    Measure,
    ModelNames,
    System,
    companion,
    companion_name,
)
from distill_dagster.evaluation.predictions import build_predictions
from distill_dagster.evaluation.score import base_label, evaluate
from distill_dagster.evaluation.statistics import Estimate, Method
from distill_dagster.spec.students import BaseSpec


def report_of(inputs: EvaluationInputs) -> EvaluationReport:
    metrics = inputs.spec.evaluation.metrics
    return evaluate(inputs, build_predictions(inputs.test, inputs.generated, inputs.fidelity, metrics))


def kl_measure(low: float | None, high: float | None) -> Measure:
    def single(value: float) -> Estimate:
        return Estimate(value, value - 0.1, value + 0.1, 71, 65, Method.CLUSTER_BOOTSTRAP)

    method = Method.CLUSTER_BOOTSTRAP if low is not None else Method.TOO_FEW_CLUSTERS
    difference = Estimate(-1.9, low, high, 71, 65, method)
    return Measure(
        name="forward_kl",
        label="Forward KL",
        description="",
        unit="nats_per_token",
        higher_is_better=False,
        systems={System.STUDENT: single(0.97), System.BASE: single(2.87)},
        comparisons=[Comparison(left=System.STUDENT, right=System.BASE, difference=difference)],
    )


@pytest.mark.parametrize(
    ("low", "high", "better", "begins"),
    [
        (-2.1, -1.7, True, "The student beats its undistilled base on forward KL to the teacher: 0.970 vs 2.870 nats"),
        (1.7, 2.1, False, "The student falls behind its undistilled base on forward KL"),
        (-0.1, 0.1, None, "Whether the student beats its undistilled base on forward KL to the teacher is undecided"),
        (-2.0, 0.0, None, "Whether the student beats its undistilled base"),
        (None, None, None, "Nothing can be said of the student and its undistilled base"),
    ],
)
def test_a_sentence_says_what_the_interval_allows(
    low: float | None, high: float | None, better: bool | None, begins: str
) -> None:
    measure = kl_measure(low, high)

    sentence = compare(measure, System.BASE, "to the teacher")

    assert is_better(measure, measure.comparisons[0].difference) is better
    assert sentence is not None
    assert sentence.startswith(begins)
    assert sentence.replace("\N{NO-BREAK SPACE}", " ").endswith("n = 71 rows in 65 groups.")


def test_every_number_of_the_tables_follows_from_the_predictions(inputs: EvaluationInputs) -> None:
    predictions = build_predictions(inputs.test, inputs.generated, inputs.fidelity, ["rouge_l"])
    report = report_of(inputs)
    student = predictions.filter(pl.col("model") == "student")
    kl, quality = report.measure("fidelity", "forward_kl"), report.measure("quality", "rouge_l")

    assert kl is not None
    assert quality is not None
    assert kl.systems[System.STUDENT].value == pytest.approx(student["kl_sum"].sum() / student["kl_tokens"].sum())
    assert quality.systems[System.STUDENT].value == pytest.approx(student["rouge_l_vs_reference"].mean())
    assert (kl.systems[System.STUDENT].n, kl.systems[System.STUDENT].n_clusters) == (71, 65)
    assert report.headlines[0].startswith("The student beats its undistilled base on forward KL")
    assert report.headlines[-1] == "The base is the teacher cut to 16 of 30 layers, not trained since: a low bar."


def test_a_row_without_fidelity_leaves_the_per_token_measures_only(inputs: EvaluationInputs) -> None:
    assert inputs.fidelity is not None
    long = inputs.test["prompt_id"][0]
    report = report_of(dataclasses.replace(inputs, fidelity=inputs.fidelity.filter(pl.col("prompt_id") != long)))
    top1, chrf = report.measure("fidelity", "top1"), report.measure("fidelity", "chrf")

    assert report.counts.rows_without_fidelity == 1
    assert top1 is not None
    assert chrf is not None
    assert (top1.systems[System.STUDENT].n, chrf.systems[System.STUDENT].n) == (70, 71)


def test_perplexity_follows_from_the_predictions(inputs: EvaluationInputs) -> None:
    predictions = build_predictions(inputs.test, inputs.generated, inputs.fidelity, ["rouge_l"])
    report = report_of(inputs)

    perplexity = report.measure("fidelity", PERPLEXITY)

    assert perplexity is not None
    assert perplexity.systems.keys() == {"student", "base"}
    for system, estimate in perplexity.systems.items():
        own = predictions.filter(pl.col("model") == system)
        assert estimate.value == pytest.approx(math.exp(own["nll_sum"].sum() / own["nll_tokens"].sum()))
    assert any("beats its undistilled base on perplexity of the teacher’s answers" in s for s in report.headlines)
    assert report.with_other_tokens == []


def test_perplexities_of_two_tokenizers_are_not_compared(side_by_side: EvaluationInputs) -> None:
    assert side_by_side.fidelity is not None
    other = pl.col("model") == "student/soft"
    read = side_by_side.fidelity.with_columns(
        tokens=pl.when(other).then(pl.col("tokens") + 1).otherwise("tokens"),
        top1_hits=pl.when(~other).then("top1_hits"),
        kl_sum=pl.when(~other).then("kl_sum"),
    )

    report = report_of(dataclasses.replace(side_by_side, fidelity=read))

    perplexity = report.measure("fidelity", PERPLEXITY)
    assert perplexity is not None
    assert perplexity.systems["student/soft"].n == 71
    assert {pair.right for pair in perplexity.comparisons} == {"base", "student/on_references"}
    assert report.with_other_tokens == ["student/soft"]


def test_with_a_hosted_teacher_and_no_references_nothing_is_made_up(hosted: EvaluationInputs) -> None:
    report = report_of(hosted)

    assert report.quality_kept.value is None
    assert all(e.value is None and e.n == 0 for m in report.quality for e in m.systems.values())
    assert [m.name for m in report.fidelity] == ["perplexity", "rouge_l", "chrf", "exact_match"]
    assert report.headlines[0].startswith(
        "The student beats its undistilled base on chrF against the teacher’s answers"
    )
    assert "quality is not measured" in report.headlines[1]
    assert report.headlines[2].startswith("The student beats its undistilled base on perplexity")
    assert report.counts.rows_without_fidelity == 0


def test_unanswered_rows_are_counted_and_told(inputs: EvaluationInputs) -> None:
    lost = inputs.test["prompt_id"].head(2).to_list()
    mask = pl.col("prompt_id").is_in(lost) & (pl.col("model") == "student")
    report = report_of(dataclasses.replace(inputs, generated=inputs.generated.filter(~mask)))

    assert report.counts.unanswered == {"base": 0, "student": 2}
    assert "The student left 2 test rows unanswered; each scores 0." in report.headlines


def test_dropped_rows_are_counted_by_split_and_reason(inputs: EvaluationInputs) -> None:
    counts = {(d.split, d.reason): d.rows for d in report_of(inputs).counts.dropped}

    assert counts["train", "truncated"] == 31
    assert sum(counts.values()) == len(inputs.dropped)


def test_worst_rows_are_the_largest_losses_and_the_fixed_sample_ignores_results(inputs: EvaluationInputs) -> None:
    predictions = build_predictions(inputs.test, inputs.generated, inputs.fidelity, ["rouge_l"])
    scores = predictions.pivot("model", index="prompt_id", values="rouge_l_vs_reference")
    loss = scores.select("prompt_id", loss=pl.col("teacher") - pl.col("student")).sort("loss", descending=True)
    report = report_of(inputs)
    other_answers = inputs.generated.with_columns(prediction=pl.lit("something else"))

    assert report.samples.worst[0].prompt_id == loss["prompt_id"][0]
    assert report.samples.fixed == report_of(dataclasses.replace(inputs, generated=other_answers)).samples.fixed


@pytest.mark.parametrize(
    ("base", "layers", "expected"),
    [
        (BaseSpec(prune="teacher", layers=16), 30, "teacher cut to 16 of 30 layers, not trained since: a low bar"),
        (BaseSpec(prune="other", layers=16), None, "other cut to 16 of 30 layers, not trained since: a low bar"),
        (BaseSpec(model="small"), None, "small, as published and not trained since"),
    ],
)
def test_the_base_is_called_what_it_is(
    inputs: EvaluationInputs, base: BaseSpec, layers: int | None, expected: str
) -> None:
    assert base_label(base, "small", inputs.student.training, layers) == expected


def test_model_names_are_kept_as_given(inputs: EvaluationInputs) -> None:
    names = ModelNames(teacher="t", student="s", base="b")

    assert report_of(dataclasses.replace(inputs, models=names)).identity.models == names


def test_other_students_are_compared_on_the_same_rows(side_by_side: EvaluationInputs) -> None:
    report = report_of(side_by_side)
    kl, top1 = report.measure("fidelity", "forward_kl"), report.measure("fidelity", "top1")

    assert report.companions == ["student/soft", "student/on_references"]
    assert kl is not None
    assert top1 is not None
    same, better = (kl.comparison(System.STUDENT, companion(name)) for name in ("soft", "on_references"))
    assert same is not None
    assert better is not None
    assert (same.value, same.n, same.method) == (0.0, 71, Method.NO_VARIANCE)
    assert better == kl.comparison(System.STUDENT, System.BASE)
    assert top1.systems["student/on_references"] == top1.systems[System.BASE]
    for table in (report.quality, report.fidelity, report.health):
        for measure in table:
            assert measure.comparison(System.STUDENT, "student/soft") is not None, measure.name


def test_the_sentences_compare_with_other_students_on_fidelity(side_by_side: EvaluationInputs) -> None:
    said = "\n".join(report_of(side_by_side).headlines)

    assert "The student beats “on_references” on forward KL to the teacher: " in said
    assert "The student beats “on_references” on chrF against the teacher’s answers: " in said
    assert "Nothing can be said of the student and “soft” on forward KL to the teacher" in said
    assert said.count("on_references") == 2


def test_a_companion_that_shares_no_tokens_with_the_teacher_is_compared_on_texts(
    side_by_side: EvaluationInputs,
) -> None:
    assert side_by_side.fidelity is not None
    strange = side_by_side.fidelity.filter(pl.col("model") != "student/soft")
    report = report_of(dataclasses.replace(side_by_side, fidelity=strange))
    kl, chrf = report.measure("fidelity", "forward_kl"), report.measure("fidelity", "chrf")

    assert kl is not None
    assert chrf is not None
    assert kl.systems["student/soft"].value is None
    assert kl.comparison(System.STUDENT, "student/soft") is None
    assert chrf.comparison(System.STUDENT, "student/soft") is not None


@pytest.mark.parametrize("name", ["base", "teacher", "bigram"])
def test_a_student_may_be_called_as_a_system_is(inputs: EvaluationInputs, name: str) -> None:
    other = dataclasses.replace(inputs.student, name=name)
    generated = inputs.generated.filter(pl.col("model") == "base").with_columns(model=pl.lit(companion(name)))
    report = report_of(
        dataclasses.replace(
            inputs,
            companions=(other,),
            generated=pl.concat([inputs.generated, generated]),
            results={**inputs.results, companion(name): inputs.results["base"]},
        )
    )

    chrf = report.measure("fidelity", "chrf")
    assert chrf is not None
    assert chrf.systems[companion(name)] == chrf.systems[System.BASE]
    assert companion_name(report.companions[0]) == name
