"""What is written to disk: the page, the report as data, the predictions, the timings."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.evaluation.inputs import EvaluationInputs, TrainedStudent
from distill_dagster.evaluation.model import EvaluationReport
from distill_dagster.evaluation.write import evaluation_version, write_evaluation
from tests.evaluation.probed import with_gate

FILES = {"report.html", "report.json", "predictions.parquet", "measurements.json"}


class Page(HTMLParser):
    """Tags, attributes and text as a browser would see them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def retrained(inputs: EvaluationInputs, **changes: object) -> TrainedStudent:
    return dataclasses.replace(inputs.student, training=inputs.student.training.model_copy(update=changes))


def page_of(folder: Path, inputs: EvaluationInputs) -> str:
    write_evaluation(folder, inputs)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_four_files_and_the_report_reads_back(tmp_path: Path, inputs: EvaluationInputs) -> None:
    report = write_evaluation(tmp_path, inputs)

    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert EvaluationReport.model_validate_json((tmp_path / "report.json").read_text(encoding="utf-8")) == report


def test_numbers_can_be_computed_again_from_the_predictions(tmp_path: Path, inputs: EvaluationInputs) -> None:
    write_evaluation(tmp_path, inputs)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))

    rows = pl.read_parquet(tmp_path / "predictions.parquet")
    by_model = rows.group_by("model").agg(
        rouge_l=pl.col("rouge_l_vs_reference").mean(),
        forward_kl=pl.col("kl_sum").sum() / pl.col("kl_tokens").sum(),
        perplexity=(pl.col("nll_sum").sum() / pl.col("nll_tokens").sum()).exp(),
        top1=pl.col("top1_hits").sum() / pl.col("kl_tokens").sum(),
        no_stop=(~pl.col("stopped")).mean(),
    )
    for table, name in (
        ("quality", "rouge_l"),
        ("fidelity", "forward_kl"),
        ("fidelity", "top1"),
        ("fidelity", "perplexity"),
        ("health", "no_stop"),
    ):
        (measure,) = [m for m in report[table] if m["name"] == name]
        for model, value in by_model.select("model", name).iter_rows():
            if model in measure["systems"] and measure["systems"][model]["n"]:
                assert measure["systems"][model]["value"] == pytest.approx(value), (name, model)


def test_equal_inputs_give_equal_files_but_for_timings(tmp_path: Path, inputs: EvaluationInputs) -> None:
    slower = dataclasses.replace(
        inputs,
        results={
            name: result.model_copy(update={"measurements": {"tokens_per_second": 3.0}})
            for name, result in inputs.results.items()
        },
        student=retrained(inputs, measurements={"seconds": 9.0}),
        generated=inputs.generated.reverse(),
        test=inputs.test.reverse(),
    )
    (first, second) = (tmp_path / "first", tmp_path / "second")
    write_evaluation(first, inputs)
    write_evaluation(second, slower)

    assert (first / "report.json").read_bytes() == (second / "report.json").read_bytes()
    assert pl.read_parquet(first / "predictions.parquet").equals(pl.read_parquet(second / "predictions.parquet"))
    assert (first / "measurements.json").read_bytes() != (second / "measurements.json").read_bytes()
    assert evaluation_version(first) == evaluation_version(second)


def test_another_answer_or_another_gate_is_another_version(tmp_path: Path, inputs: EvaluationInputs) -> None:
    others = {
        "same": inputs,
        "answer": dataclasses.replace(inputs, generated=inputs.generated.with_columns(prediction=pl.lit("other"))),
        "gate": with_gate(inputs),
    }
    for name, other in others.items():
        write_evaluation(tmp_path / name, other)

    assert len({evaluation_version(tmp_path / name) for name in others}) == 3


def test_the_partitions_that_rows_lie_in_make_no_other_version(tmp_path: Path, inputs: EvaluationInputs) -> None:
    cut_otherwise = dataclasses.replace(
        inputs, test=inputs.test.with_columns(partition=pl.lit("07")), spec_hash="5c" * 32
    )
    (first, second) = (tmp_path / "first", tmp_path / "second")
    write_evaluation(first, inputs)
    write_evaluation(second, cut_otherwise)

    assert not pl.read_parquet(first / "predictions.parquet").equals(pl.read_parquet(second / "predictions.parquet"))
    assert evaluation_version(first) == evaluation_version(second)


def test_a_loss_that_is_not_finite_is_null_and_reads_back(tmp_path: Path, inputs: EvaluationInputs) -> None:
    diverged = retrained(inputs, train_loss=float("nan"), loss_curve=[(5, float("inf"))])
    write_evaluation(tmp_path, dataclasses.replace(inputs, student=diverged))
    text = (tmp_path / "report.json").read_text(encoding="utf-8")

    training = EvaluationReport.model_validate_json(text).training

    assert (training.train_loss, training.loss_curve) == (None, [(5, None)])
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(tmp_path: Path, inputs: EvaluationInputs) -> None:
    source = page_of(tmp_path, inputs)
    page = Page(source)

    assert "script" not in page.tags
    assert not [a for a in page.attributes if a[0] in {"src", "srcset", "action"} or a[0].startswith("on")]
    assert [value for name, value in page.attributes if name == "href"] == ["data:,"]
    assert not re.search(r"https?://|@import|url\(", source)


def test_model_text_stays_text(tmp_path: Path, hostile: EvaluationInputs) -> None:
    source = page_of(tmp_path, hostile)
    page = Page(source)

    assert "script" not in page.tags
    assert page.tags.count("style") == 1
    assert "\x00" not in source
    shown = [text for text in page.texts if "<script>alert(1)</script>" in text and "{{ 7*7 }}" in text]
    assert len(shown) > 20
    assert "49" not in "".join(shown)


def test_undefined_is_a_dash_and_never_0(tmp_path: Path, hosted: EvaluationInputs) -> None:
    source = page_of(tmp_path, hosted)
    cards = re.findall(r'<div class="card"><strong>(.*?)</strong><span>(.*?)</span>', source)

    assert cards[0] == ("–", "of the teacher’s ROUGE-L kept")
    assert cards[3][0] == "412"
    assert "Not measured: no row of the test split has a human reference" in source
    assert "Agreement per token is not measured" in source
    assert "A perplexity of 3 is to waver" in source
    assert "Perplexity is per token." not in source  # student and base read the same tokens
    no_stop = re.search(r"Answers without a stop.*?<td class=\"(.*?)\">(.*?)</td>", source, re.DOTALL)
    assert no_stop is not None
    assert no_stop.groups() == ("num none", "–")


def test_a_student_of_another_tokenizer_is_named(tmp_path: Path, side_by_side: EvaluationInputs) -> None:
    assert side_by_side.fidelity is not None
    longer = pl.when(pl.col("model") == "student/soft").then(pl.col("tokens") + 1).otherwise("tokens")
    other = dataclasses.replace(side_by_side, fidelity=side_by_side.fidelity.with_columns(tokens=longer))

    source = page_of(tmp_path, other)

    assert "Perplexity is per token. soft: the teacher’s answers are other tokens there" in source


def test_one_group_has_values_but_no_intervals(tmp_path: Path, inputs: EvaluationInputs) -> None:
    one_group = dataclasses.replace(inputs, test=inputs.test.with_columns(group_id=pl.lit("only")))

    source = page_of(tmp_path, one_group)

    assert "n 71/1 · no interval" in source
    assert "Nothing can be said of the student and its undistilled base" in source
    assert 'class="verdict better"' not in source


def test_long_answers_are_cut_on_the_page_with_notice(tmp_path: Path, inputs: EvaluationInputs) -> None:
    long = inputs.generated.with_columns(prediction=pl.lit("x" * 10_000))

    assert "… (6,000 more characters)" in page_of(tmp_path, dataclasses.replace(inputs, generated=long))


def test_a_missing_base_leaves_dashes(tmp_path: Path, inputs: EvaluationInputs) -> None:
    assert inputs.fidelity is not None
    alone = dataclasses.replace(
        inputs,
        generated=inputs.generated.filter(pl.col("model") == "student"),
        fidelity=inputs.fidelity.filter(pl.col("model") == "student"),
    )

    assert "The student falls behind its teacher on ROUGE-L" in page_of(tmp_path, alone)


def test_other_students_stand_beside_it(tmp_path: Path, side_by_side: EvaluationInputs) -> None:
    source = page_of(tmp_path, side_by_side)
    heads = re.findall(r"<thead><tr>(.*?)</tr></thead>", source, re.DOTALL)
    columns = [[re.sub("<.*?>", " ", cell).split() for cell in re.findall("<th.*?</th>", head)] for head in heads]

    students = [["Measure"], ["Student"], ["soft"], ["on_references"]]
    pairs = [["Student", "−", "soft"], ["Student", "−", "on_references"]]
    assert columns.count(students + pairs) == 3  # quality, fidelity, health
    assert '<section class="answer companion"><h4>soft' in source
    assert {"student/soft", "student/on_references"} <= set(pl.read_parquet(tmp_path / "predictions.parquet")["model"])


def test_what_each_student_is(tmp_path: Path, side_by_side: EvaluationInputs) -> None:
    source = page_of(tmp_path, side_by_side)
    facts = {
        label: re.findall("<td.*?>(.*?)</td>", cells)
        for label, cells in re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', source)
    }

    assert facts["Learnt from"] == ["the teacher’s answers", "the teacher’s answers", "human references"]
    assert facts["Captured bytes per token"] == ["–", "101.5", "–"]
    assert facts["Training, seconds"] == ["312"] * 3


def test_without_captured_distributions_no_fact_is_about_them(tmp_path: Path, inputs: EvaluationInputs) -> None:
    assert "Captured bytes" not in page_of(tmp_path, inputs)


def test_the_page_says_how_agreement_is_measured(tmp_path: Path, inputs: EvaluationInputs) -> None:
    source = page_of(tmp_path, inputs)

    for said in ("teacher-forced", "stop token", "micro-average", "normalised question"):
        assert said in source.partition("How to read this")[2]
