"""What the designs' answers came to, computable again from the answers alone."""

from collections.abc import Callable

import polars as pl
import pytest

from distill_dagster.metrics import chrf
from distill_dagster.project import Distillation
from distill_dagster.variants.model import DesignMeasure, VariantsReport
from distill_dagster.variants.report import render_html
from tests.fakes.anthropic_server import AnthropicServer, Reply
from tests.variants.conftest import Compared
from tests.variants.designs import SPEC, rows

Declare = Callable[..., Distillation]
Run = Callable[..., Compared]


def measure(report: VariantsReport, name: str) -> DesignMeasure:
    found = report.measure(name)
    assert found is not None
    return found


def test_numbers_can_be_computed_again_from_the_answers(compared: Compared) -> None:
    _, scored, report = compared

    means = scored.group_by("design").agg(
        usable=pl.col("usable").mean(),
        rouge_l=pl.col("rouge_l").mean(),
        chrf=pl.col("chrf").mean(),
        words=pl.col("words").mean(),
        output_tokens=pl.col("output_tokens").mean(),
        cost=pl.col("cost_microusd").mean() * 1000 / 1_000_000,
    )
    for row in means.iter_rows(named=True):
        for name in ("usable", "rouge_l", "chrf", "words", "output_tokens", "cost"):
            assert measure(report, name).designs[row["design"]].value == pytest.approx(row[name]), (row["design"], name)


def test_every_row_is_accounted_for(compared: Compared) -> None:
    _, scored, report = compared
    declared, brief, _ = report.designs

    refused = scored.filter((pl.col("design") == "declared") & pl.col("answer").is_null())
    assert declared.statuses == {"answered": 50 - len(refused), "refused": len(refused)}
    assert len(refused) > 0
    assert brief.statuses == {"answered": 50}
    assert refused["detail"].unique().to_list() == ["bio"]
    assert refused["rouge_l"].unique().to_list() == [0.0]
    assert refused["words"].null_count() == len(refused)


def test_differences_are_paired_and_clustered_by_group(compared: Compared) -> None:
    _, scored, report = compared
    words = measure(report, "words")
    answered = scored.filter((pl.col("design") == "declared") & pl.col("answer").is_not_null())

    difference = words.differences["brief"]
    assert (report.rows, report.groups) == (50, scored["group_id"].n_unique())
    assert report.groups < 50
    assert difference.n == len(answered)
    assert difference.n_clusters == answered["group_id"].n_unique()
    assert difference.value == pytest.approx(6 - answered["words"].mean())  # type: ignore[operator]
    assert measure(report, "rouge_l").verdict("brief") is True
    assert measure(report, "cost").verdict("brief") is True
    assert measure(report, "words").verdict("brief") is None


def test_headlines_say_what_was_measured(compared: Compared) -> None:
    *_, report = compared

    text = "\n".join(report.headlines)
    assert "“brief” beats the declared design on ROUGE-L against the human references: 1.000 vs" in text
    assert "“brief” is cheaper: per 1,000 requests" in text
    assert "Usable answers of “brief” and of the declared design: 100.0" in text
    assert "Answers of “opus” and of the declared design are alike to" in text


def test_agreement_prefers_neither_direction(compared: Compared) -> None:
    _, scored, report = compared
    by_pair = {(pair.left, pair.right): pair.similarity for pair in report.agreement}
    texts = {
        name: scored.filter(pl.col("design") == name).sort("prompt_id")["answer"].to_list()
        for name in ("brief", "opus")
    }

    both = [(chrf(a, b) + chrf(b, a)) / 2 for a, b in zip(texts["brief"], texts["opus"], strict=True)]

    assert set(by_pair) == {("declared", "brief"), ("declared", "opus"), ("brief", "opus")}
    assert by_pair["brief", "opus"].value == pytest.approx(sum(both) / len(both))


def test_examples_are_the_rows_least_alike_refusals_first(compared: Compared) -> None:
    _, scored, report = compared
    refused = scored.filter(pl.col("answer").is_null())["prompt_id"].to_list()

    assert len(report.examples) == 10
    assert set(report.examples[: len(refused)]) == set(refused)


def test_without_references_only_length_cost_and_likeness_are_measured(declare: Declare, run: Run) -> None:
    source = rows(80, reference=False)

    *_, report = run(declare(SPEC.replace("  reference: answer\n", ""), rows__jsonl=source), 20)

    assert report.rows_with_reference == 0
    assert measure(report, "rouge_l").designs["brief"].value is None
    assert "No row has a human reference" in report.headlines[0]


def test_what_needs_no_reference_is_measured_without_one(declare: Declare, run: Run) -> None:
    metrics = '[{python: own.short, needs_reference: false}, {regex: "[0-9]"}, macro_f1, label_accuracy]'
    spec = SPEC.replace("  reference: answer\n", "").replace("[rouge_l, chrf]", metrics)
    own = (
        "def short(prediction, reference, row):\n    return float(len(prediction) < 40 and row['text'].endswith('?'))\n"
    )

    _, scored, report = run(declare(spec, rows__jsonl=rows(80, reference=False), own__py=own), 20)

    answered = scored.filter(pl.col("answer").is_not_null())
    names = [m.name for m in report.measures]
    assert names[1:4] == ["python_own_short", "regex", "label_accuracy"]
    assert answered["python_own_short"].to_list() == [float(n < 40) for n in answered["answer"].str.len_chars()]
    assert measure(report, "python_own_short").designs["brief"].n == 20
    assert measure(report, "label_accuracy").designs["brief"].value is None
    assert "the declared design on python_own_short: " in report.headlines[0]
    assert "python_own_short 1.000" in render_html(report, scored)


def test_labels_decide_what_is_usable(declare: Declare, claude: AnthropicServer, run: Run) -> None:
    spec = SPEC.replace("  concurrency: 8", "  concurrency: 8\n  labels: [good, bad]")
    distillation = declare(spec, rows__jsonl=rows(80))
    claude.script = lambda body, seen: Reply(text="Good." if "brief" in str(body.get("system")) else "It depends.")

    *_, report = run(distillation, 20)

    declared, brief, _ = report.designs
    assert declared.problems == {"invalid_label": 20}
    assert brief.problems == {}
    assert measure(report, "usable").designs["brief"].value == 1
    assert "one of the labels" in measure(report, "usable").description


def test_answers_that_are_all_equal_leave_no_example(declare: Declare, claude: AnthropicServer, run: Run) -> None:
    distillation = declare(SPEC, rows__jsonl=rows(60))
    claude.script = lambda body, seen: Reply(text="The same.")

    *_, report = run(distillation, 10)

    assert report.examples == []
    assert {pair.similarity.value for pair in report.agreement} == {1.0}
