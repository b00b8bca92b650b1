"""The scored table: which rows, which nulls, which errors."""

import polars as pl
import pytest

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.predictions import build_predictions, logical_columns
from distill_dagster.metrics import rouge_l

METRICS = ["rouge_l", "exact_match"]


def test_one_row_per_prompt_sample_and_model(inputs: EvaluationInputs) -> None:
    table = build_predictions(inputs.test, inputs.generated, inputs.fidelity, METRICS)

    assert table.columns == logical_columns(METRICS)
    assert not table.select("prompt_id", "sample", "model").is_duplicated().any()
    assert dict(table["model"].value_counts().iter_rows()) == dict.fromkeys(
        ["teacher", "student", "base", "most_frequent", "bigram"], 71
    )
    assert table.equals(table.sort("prompt_id", "sample", "model"))


def test_scores_are_the_metrics_of_the_texts(inputs: EvaluationInputs) -> None:
    table = build_predictions(inputs.test, inputs.generated, None, METRICS)
    row = table.filter(pl.col("model") == "student").row(3, named=True)
    completion = inputs.test["completion"][3]

    assert row["rouge_l_vs_teacher"] == rouge_l(row["prediction"], completion)
    assert row["rouge_l_vs_reference"] == rouge_l(row["prediction"], row["reference"])
    assert row["length_ratio"] == len(row["prediction"]) / len(completion)


def test_what_does_not_apply_is_null(hosted: EvaluationInputs) -> None:
    table = build_predictions(hosted.test, hosted.generated, hosted.fidelity, METRICS)
    teacher = table.filter(pl.col("model") == "teacher")

    assert table["rouge_l_vs_reference"].null_count() == len(table)
    for column in ("rouge_l_vs_teacher", "tokens", "stopped", "kl_sum", "kl_tokens"):
        assert teacher[column].null_count() == len(teacher), column


def test_an_unanswered_row_scores_0_and_stays_in_the_table(inputs: EvaluationInputs) -> None:
    lost = inputs.test["prompt_id"][0]
    generated = inputs.generated.filter(~((pl.col("prompt_id") == lost) & (pl.col("model") == "student")))

    table = build_predictions(inputs.test, generated, inputs.fidelity, METRICS)

    row = table.filter((pl.col("prompt_id") == lost) & (pl.col("model") == "student")).row(0, named=True)
    assert (row["prediction"], row["rouge_l_vs_teacher"], row["rouge_l_vs_reference"]) == (None, 0.0, 0.0)
    assert (row["repetition_rate"], row["length_ratio"], row["stopped"]) == (None, None, None)


def test_rows_that_do_not_belong_together_are_an_error(inputs: EvaluationInputs) -> None:
    with pytest.raises(EvaluationError, match="test split has no rows"):
        build_predictions(inputs.test.clear(), inputs.generated, None, METRICS)
    with pytest.raises(EvaluationError, match="outside the test split"):
        build_predictions(inputs.test.head(10), inputs.generated, None, METRICS)
    with pytest.raises(EvaluationError, match="no answer of the student"):
        build_predictions(inputs.test, inputs.generated.filter(pl.col("model") == "base"), None, METRICS)
    with pytest.raises(EvaluationError, match="two answers of one model"):
        build_predictions(inputs.test, pl.concat([inputs.generated, inputs.generated.head(1)]), None, METRICS)
