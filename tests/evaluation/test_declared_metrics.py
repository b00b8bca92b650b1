"""Metrics with a parameter, from the declaration to the page."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.errors import EvaluationError, SpecError
from distill_dagster.evaluation import declared_metrics
from distill_dagster.evaluation.declared_metrics import metric_facts, metric_sources, open_metrics, score_of
from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.metadata import metric_plot_png, summary_markdown
from distill_dagster.evaluation.model import EvaluationReport
from distill_dagster.evaluation.similarity import text_pairs
from distill_dagster.evaluation.write import write_evaluation
from distill_dagster.metrics import Metric
from distill_dagster.spec.distillation import DistillationSpec

ROW = {"prompt_id": "p7", "text": "What is it?", "reference": None, "completion": "A moon."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "assets" / "faq"
    folder.mkdir(parents=True)
    return folder


def declare(spec: DistillationSpec, metrics: list[object], **teacher: object) -> DistillationSpec:
    content = spec.model_dump(exclude_unset=True)
    content["evaluation"] = {"metrics": metrics}
    content["teacher"] |= teacher
    return DistillationSpec.model_validate(content)


@contextmanager
def opened(inputs: EvaluationInputs, folder: Path, metric: object, **teacher: object) -> Iterator[Metric]:
    with open_metrics(declare(inputs.spec, [metric], **teacher), folder, folder.parent.parent) as metrics:
        (one,) = metrics.values()
        yield one


def write_module(folder: Path, body: str) -> None:
    (folder / "own.py").write_text(f"def score(prediction, reference, row):\n    {body}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^[A-Z]", "Moon", 1.0),
        ("^[A-Z]", "a Moon", 0.0),
        (r"^\p{Lu}", "Луна", 1.0),
        ("^$", "", 1.0),
        ("moon$", "", 0.0),
    ],
)
def test_a_pattern_is_searched_for(
    inputs: EvaluationInputs, folder: Path, pattern: str, text: str, found: float
) -> None:
    with opened(inputs, folder, {"regex": pattern}) as metric:
        assert metric.score(text, None, ROW) == found
        assert (metric.name, metric.needs_reference) == ("regex", False)


def test_a_pattern_that_would_hang_is_an_error(
    inputs: EvaluationInputs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declared_metrics, "REGEX_TIMEOUT_S", 0.05)
    with (
        opened(inputs, folder, {"regex": "(a|aa)+$"}) as metric,
        pytest.raises(EvaluationError, match=r"evaluation\.metrics: regex: prompt 'p7': the pattern took more than"),
    ):
        metric.score("a" * 80 + "b", None, ROW)


def test_a_schema_is_a_file_of_the_project(inputs: EvaluationInputs, folder: Path) -> None:
    (folder / "answer.json").write_text('{"type": "object", "required": ["city"]}', encoding="utf-8")
    with opened(inputs, folder, {"json_schema": "answer.json"}) as metric:
        texts = ['{"city": "東京"}', "{}", "no JSON", ""]
        assert [metric.score(text, None, ROW) for text in texts] == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.json", None, "evaluation.metrics.json_schema: no file 'gone.json'"),
        ("../../../out.json", "{}", "evaluation.metrics.json_schema: "),
        ("bad.json", "{", "evaluation.metrics.json_schema: bad.json:1: not valid JSON"),
        ("bad.json", '{"type": 3}', "evaluation.metrics.json_schema: bad.json: not a valid JSON Schema"),
    ],
)
def test_a_schema_that_cannot_be_is_refused(
    inputs: EvaluationInputs, folder: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(SpecError) as caught, opened(inputs, folder, {"json_schema": name}):
        pass

    assert message in str(caught.value)


def test_a_function_gets_the_texts_and_the_row(inputs: EvaluationInputs, folder: Path) -> None:
    write_module(
        folder, "return 0.5 * (row['text'] == 'What is it?') + 0.25 * (reference == 'R') + (prediction == 'P')"
    )
    with opened(inputs, folder, {"python": "own.score"}) as metric:
        assert metric.name == "python_own_score"
        assert metric.score("-", "R", ROW) == 0.75


def test_a_function_may_import_its_neighbours_when_called(inputs: EvaluationInputs, folder: Path) -> None:
    (folder / "neighbour.py").write_text("VALUE = 0.5\n", encoding="utf-8")
    write_module(folder, "from neighbour import VALUE; return VALUE")
    with opened(inputs, folder, {"python": "own.score"}) as metric:
        assert metric.score("", "", ROW) == 0.5


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1.5", "return a number from 0 to 1 (seen: 1.5)"),
        ("return -1", "return a number from 0 to 1 (seen: -1)"),
        ("return float('nan')", "return a number from 0 to 1 (seen: nan)"),
        ("return None", "return a number from 0 to 1 (seen: NoneType)"),
        ("return 'good'", "return a number from 0 to 1 (seen: str)"),
        ("return 10 ** 400", "return a number from 0 to 1 (seen: 1000"),
        ("raise KeyError(prediction)", "own.py:2; mend the function"),
        ("row['text'] = ''", "TypeError at "),
    ],
)
def test_a_function_that_fails_is_named_with_its_row_and_without_its_texts(
    inputs: EvaluationInputs, folder: Path, body: str, message: str
) -> None:
    write_module(folder, body)
    with opened(inputs, folder, {"python": "own.score"}) as metric, pytest.raises(EvaluationError) as caught:
        metric.score("SECRET", "R", ROW)

    assert str(caught.value).startswith("evaluation.metrics: python_own_score: prompt 'p7': ")
    assert message in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_function_that_is_not_there_is_refused(inputs: EvaluationInputs, folder: Path) -> None:
    with (
        pytest.raises(EvaluationError, match=r"evaluation\.metrics: own\.score: no file"),
        opened(inputs, folder, {"python": "own.score"}),
    ):
        pass


def test_declared_labels_are_the_only_right_answers(inputs: EvaluationInputs, folder: Path) -> None:
    with opened(inputs, folder, "label_accuracy", labels=["Good", "Bad"]) as metric:
        pairs = [("good.", "Good"), ("Bad", "Good"), ("fine", "fine")]
        assert [metric.score(*pair, ROW) for pair in pairs] == [1.0, 0.0, 0.0]
    with opened(inputs, folder, "label_accuracy") as metric:
        assert metric.score("fine", "Fine.", ROW) == 1.0


def test_an_answer_that_is_missing_scores_0_and_a_missing_reference_none(
    inputs: EvaluationInputs, folder: Path
) -> None:
    write_module(folder, "return float(reference is None)")
    alone = {"python": "own.score", "needs_reference": False}
    with opened(inputs, folder, alone) as free, opened(inputs, folder, "chrf") as compares:
        assert [score_of(free, text, "R", ROW) for text in ("a", None)] == [1.0, 0.0]
        assert [score_of(compares, "a", None, ROW), score_of(compares, None, "R", ROW)] == [None, 0.0]


def test_what_is_read_beside_the_declaration_decides_the_scores(inputs: EvaluationInputs, folder: Path) -> None:
    (folder / "answer.json").write_text('{"type": "object"}', encoding="utf-8")
    write_module(folder, "return 1")
    metrics = ["chrf", {"regex": "a"}, {"json_schema": "answer.json"}, {"python": "own.score"}, "label_accuracy"]
    spec = declare(inputs.spec, metrics, labels=["a", "b"])

    first = metric_sources(spec, folder, folder.parent.parent)
    write_module(folder, "return 0")
    second = metric_sources(spec, folder, folder.parent.parent)

    assert first["json_schema"] == {"type": "object"}
    assert first["label_accuracy"] == ["a", "b"]
    assert {name for name in first if first[name] != second[name]} == {"python_own_score"}
    assert metric_sources(declare(inputs.spec, ["chrf", {"regex": "a"}]), folder, folder.parent.parent) == {}


def test_a_long_pattern_is_cut_in_its_description(inputs: EvaluationInputs) -> None:
    (entry,) = declare(inputs.spec, [{"regex": "a" * 500}]).evaluation.metrics

    assert len(metric_facts(entry).description) < 100


def evaluated(tmp_path: Path, inputs: EvaluationInputs, folder: Path, metrics: list[object]) -> EvaluationReport:
    spec = declare(inputs.spec, metrics)
    placed = dataclasses.replace(inputs, spec=spec, folder=folder, project_root=folder.parent.parent)
    out = tmp_path / "evaluation"
    out.mkdir()
    return write_evaluation(out, placed)


def test_what_needs_no_reference_is_quality_and_no_agreement(
    tmp_path: Path, inputs: EvaluationInputs, folder: Path
) -> None:
    report = evaluated(tmp_path, inputs, folder, ["rouge_l", "json_valid", {"regex": "[.]$", "name": "ends_well"}])
    rows = pl.read_parquet(tmp_path / "evaluation" / "predictions.parquet")
    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")

    answering = rows.filter(pl.col("model").is_in(["teacher", "student", "base"]))
    assert rows["ends_well_vs_teacher"].null_count() == len(rows)
    assert answering["ends_well_vs_reference"].null_count() == 0
    assert [m.name for m in report.quality] == ["rouge_l", "json_valid", "ends_well"]
    assert [m.name for m in report.fidelity if m.unit == "score"] == ["rouge_l"]
    assert "the answer matches [.]$" in page
    assert "| Valid JSON | " in summary_markdown(report)


def test_without_references_only_what_needs_none_is_in_the_tables(
    tmp_path: Path, hosted: EvaluationInputs, folder: Path
) -> None:
    write_module(folder, "return float(len(prediction) > 40)")
    own = {"python": "own.score", "needs_reference": False, "name": "long_enough"}

    report = evaluated(tmp_path, hosted, folder, [own, "chrf"])

    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert [m.name for m in report.measured_quality] == ["long_enough"]
    assert report.quality_kept.n == 71
    assert "Metrics that need no reference, 0 to 1" in page
    assert "of quality only what needs none is measured" in page
    assert any("on long_enough: " in sentence for sentence in report.headlines)
    assert metric_plot_png(report).startswith(b"\x89PNG")


def test_embedding_similarity_is_what_the_worker_found(tmp_path: Path, inputs: EvaluationInputs, folder: Path) -> None:
    pairs = text_pairs([(inputs.test, inputs.generated)])
    scores = {(left, right): (len(left) * 7 + len(right)) % 100 / 100 for left, right in pairs.iter_rows()}
    metric = {"embedding_similarity": "minilm", "name": "meaning"}
    known = dataclasses.replace(inputs, similarities={"meaning": scores})

    report = evaluated(tmp_path, known, folder, [metric, "chrf"])

    rows = pl.read_parquet(tmp_path / "evaluation" / "predictions.parquet")
    teacher = dict(inputs.test.select("prompt_id", "completion").iter_rows())
    student = rows.filter(model="student").row(0, named=True)
    assert student["meaning_vs_reference"] == scores[student["prediction"], student["reference"]]
    assert student["meaning_vs_teacher"] == scores[student["prediction"], teacher[student["prompt_id"]]]
    assert report.primary_metric == "meaning"
    quality = report.measure("quality", "meaning")
    assert quality is not None
    assert quality.description == "cosine of embeddings by minilm"
    assert quality.systems["teacher"].n == quality.systems["student"].n == 71
    assert report.measure("fidelity", "meaning") is not None


def test_an_embedding_model_here_counts_by_its_weights_and_one_of_the_hub_by_its_revision(
    inputs: EvaluationInputs, folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    root = folder.parent.parent
    here = declare(inputs.spec, [{"embedding_similarity": "tiny"}])
    there = declare(inputs.spec, [{"embedding_similarity": "owner/tiny", "revision": "1a2b"}])
    shutil.copytree(tiny_model, root / ".models" / "tiny")
    first = metric_sources(here, folder, root, tmp_path / "digests")

    (root / ".models" / "tiny" / "model.safetensors").write_bytes(b"other weights")

    second = metric_sources(here, folder, root, tmp_path / "digests")
    assert first.keys() == second.keys() == {"embedding_similarity"}
    assert first != second
    assert metric_sources(there, folder, root) == {}


def test_a_report_may_have_nothing_that_compares(tmp_path: Path, hosted: EvaluationInputs, folder: Path) -> None:
    report = evaluated(tmp_path, hosted, folder, ["json_valid"])

    page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert [m.name for m in report.fidelity] == ["perplexity"]
    assert "no metric compares with the teacher’s answers" in page
    assert "the teacher scores 0 on every row" in page
    assert report.samples.worst == []
    assert metric_plot_png(report).startswith(b"\x89PNG")


def test_macro_f1_without_references_is_closeness_only(tmp_path: Path, hosted: EvaluationInputs, folder: Path) -> None:
    yes_or_no = pl.when(pl.col("prompt_id") < "0030").then(pl.lit("yes")).otherwise(pl.lit("no"))
    classified = dataclasses.replace(
        hosted,
        test=hosted.test.with_columns(completion=yes_or_no),
        generated=hosted.generated.with_columns(prediction=yes_or_no.str.to_uppercase()),
    )

    report = evaluated(tmp_path, classified, folder, ["label_accuracy", "macro_f1"])

    assert report.measured_quality == []
    texts = [m for m in report.fidelity if m.unit == "score"]
    assert [m.systems["student"].value for m in texts] == [1.0, 1.0]


def test_macro_f1_is_a_measure_beside_label_accuracy(tmp_path: Path, inputs: EvaluationInputs, folder: Path) -> None:
    label = pl.col("prompt_id").str.slice(0, 4).cast(pl.Int64) % 3
    classified = dataclasses.replace(
        inputs,
        test=inputs.test.with_columns(reference=label.cast(pl.String), completion=label.cast(pl.String) + "."),
        generated=inputs.generated.with_columns(
            prediction=pl.when(pl.col("model") == "student").then(label.cast(pl.String)).otherwise(pl.lit("0"))
        ),
    )

    report = evaluated(tmp_path, classified, folder, ["macro_f1", "label_accuracy"])

    quality, fidelity = report.measure("quality", "macro_f1"), report.measure("fidelity", "macro_f1")
    assert quality is not None
    assert fidelity is not None
    # the base says 0 to all 71 rows, of which 24 are: F1 is 48/95, 0 and 0
    assert (quality.systems["teacher"].value, quality.systems["student"].value) == (1.0, 1.0)
    assert quality.systems["base"].value == pytest.approx(48 / 95 / 3)
    assert fidelity.systems["base"] == quality.systems["base"]
    comparison = quality.comparison("student", "base")
    assert comparison is not None
    assert comparison.value == pytest.approx(1 - 48 / 95 / 3)
    assert report.primary_metric == "label_accuracy"
    assert not [c for c in pl.read_parquet(tmp_path / "evaluation" / "predictions.parquet").columns if "macro" in c]
    assert "Macro F1" in json.dumps(json.loads((tmp_path / "evaluation" / "report.json").read_text()))
