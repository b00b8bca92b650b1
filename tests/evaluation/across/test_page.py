"""The page of a comparison: self-contained, every text escaped, the texts that changed beside each other."""

import dataclasses
import re
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.evaluation.across.compare import compare_evaluations
from distill_dagster.evaluation.across.page import fact_text, render_comparison
from distill_dagster.evaluation.inputs import EvaluationInputs
from tests.evaluation.across.shelf import AT, answering, distillation_in, publish, small_inputs
from tests.evaluation.conftest import HOSTILE
from tests.evaluation.test_report import Page


def page_of(folder: Path, a: EvaluationInputs, b: EvaluationInputs) -> str:
    distillation = distillation_in(folder)
    left, right = publish(distillation, a, current=False), publish(distillation, b)
    return render_comparison(*compare_evaluations(distillation, left, right))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    a = small_inputs()
    b = answering(a, pl.when(AT < 30).then(pl.lit("Quite another answer.")).otherwise("prediction"))
    corrected = b.test.with_columns(completion=pl.when(AT < 30).then(pl.lit("Asked again.")).otherwise("completion"))
    return page_of(tmp_path_factory.mktemp("page"), a, dataclasses.replace(b, test=corrected))


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(source: str) -> None:
    page = Page(source)

    assert "script" not in page.tags
    assert not [a for a in page.attributes if a[0] in {"src", "srcset", "action"} or a[0].startswith("on")]
    assert [value for name, value in page.attributes if name == "href"] == ["data:,"]
    assert not re.search(r"https?://|@import|url\(", source)


def test_both_answers_stand_beside_what_they_are_compared_with(source: str) -> None:
    text = " ".join(" ".join(Page(source).texts).split())

    assert text.count("Quite another answer.") == 15  # ten regressions and five others; no row gains
    assert "Worst regressions Rows with the largest loss from A to B on ROUGE-L vs reference." in text
    assert re.search(r"Teacher\s?in A .* Teacher\s?in B Asked again\.", text)
    assert "Compared, but not with the teacher, whose answer differs 30" in text
    assert "forward_kl" not in text


def test_model_text_stays_text(tmp_path: Path, hostile: EvaluationInputs) -> None:
    a = dataclasses.replace(hostile, spec=small_inputs().spec)
    b = answering(a, pl.lit(f"{HOSTILE} again"))

    source = page_of(tmp_path, a, b)

    page = Page(source)
    assert "script" not in page.tags
    assert page.tags.count("style") == 1
    assert "\x00" not in source
    assert len([text for text in page.texts if "<script>alert(1)</script>" in text and "{{ 7*7 }}" in text]) > 10


def test_facts_as_text() -> None:
    assert [fact_text(value) for value in (None, "sft", 0.5, True, [1, 2])] == ["–", "sft", "0.5", "true", "[1, 2]"]
