"""Held-out partitions: measured like the test split, set against it, and in no other number."""

import dataclasses
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.metadata import summary_markdown
from distill_dagster.evaluation.model import EvaluationReport, HeldOut, Measure
from distill_dagster.evaluation.statistics import Method
from distill_dagster.evaluation.write import evaluation_version, write_evaluation
from tests.evaluation.conftest import make_inputs, make_side_by_side, make_spec
from tests.evaluation.probed import with_held_out

APART = {"held_out", "headlines", "identity"}


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationReport, Path]:
    """The report on three students with two partitions held out, and its folder."""
    folder = tmp_path_factory.mktemp("probed")
    return write_evaluation(folder, with_held_out(make_side_by_side(make_inputs()))), folder


@pytest.fixture
def away(probed: tuple[EvaluationReport, Path]) -> HeldOut:
    part = probed[0].held_out
    assert part is not None
    return part


def one(table: list[Measure], name: str) -> Measure:
    (found,) = [measure for measure in table if measure.name == name]
    return found


def test_no_other_number_has_them_in(
    tmp_path: Path, side_by_side: EvaluationInputs, probed: tuple[EvaluationReport, Path]
) -> None:
    without = write_evaluation(tmp_path, side_by_side).model_dump(exclude=APART)
    report = probed[0].model_dump(exclude=APART)

    assert report["counts"].pop("rows_per_split") == {**without["counts"].pop("rows_per_split"), "held_out": 36}
    assert report == without


def test_the_same_measures_on_other_rows(probed: tuple[EvaluationReport, Path], away: HeldOut) -> None:
    report, folder = probed

    rows = pl.read_parquet(folder / "predictions.parquet").filter(split="held_out")
    student = rows.filter(model="student")
    assert (away.rows, away.groups, away.rows_with_reference) == (36, 36, 36)
    assert away.rows_per_partition == {"law": 24, "medicine": 12}
    assert away.unanswered == {"base": 0, "student": 0, "student/on_references": 0, "student/soft": 0}
    assert one(away.quality, "rouge_l").systems["student"].value == pytest.approx(
        student["rouge_l_vs_reference"].mean()
    )
    assert one(away.fidelity, "forward_kl").systems["student"].value == pytest.approx(
        student["kl_sum"].sum() / student["kl_tokens"].sum()
    )
    assert [m.name for m in away.quality] == [m.name for m in report.quality]
    assert [m.name for m in away.fidelity] == [m.name for m in report.fidelity]
    assert one(away.retention, "rouge_l").systems.keys() == {
        "student", "student/soft", "student/on_references", "base"
    }  # fmt: skip


def test_a_change_is_the_held_out_value_less_the_other_one(
    probed: tuple[EvaluationReport, Path], away: HeldOut
) -> None:
    report, _ = probed

    for home, there, change in (
        (report.quality, away.quality, away.quality_change),
        (report.fidelity, away.fidelity, away.fidelity_change),
    ):
        for measure in change:
            before, after = one(home, measure.name), one(there, measure.name)
            for system, moved in measure.systems.items():
                values = after.systems[system].value, before.systems[system].value
                assert moved.value == pytest.approx(values[0] - values[1]), (measure.name, system)
                assert moved.n == after.systems[system].n + before.systems[system].n
            for pair in measure.comparisons:
                left = after.comparison(pair.left, pair.right).value
                assert pair.difference.value == pytest.approx(left - before.comparison(pair.left, pair.right).value)
    assert one(away.fidelity_change, "forward_kl").systems["student"].method == Method.WELCH_T


def test_macro_f1_changes_too(tmp_path: Path, inputs: EvaluationInputs) -> None:
    labels = (
        pl.col("prompt_id")
        .str.slice(-15, 2)
        .replace_strict({f"{n:02d}": ("red", "green", "blue")[n % 3] for n in range(100)}, default="red")
    )
    probed = with_held_out(
        dataclasses.replace(inputs, spec=make_spec(metrics=["label_accuracy", "macro_f1"], gate=None))
    )
    assert probed.held_out is not None
    said = pl.when(pl.col("model") == "base").then(pl.lit("red")).otherwise(labels)

    def labelled(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.with_columns(reference=labels, completion=labels)

    report = write_evaluation(
        tmp_path,
        dataclasses.replace(
            probed,
            test=labelled(probed.test),
            generated=probed.generated.with_columns(prediction=said),
            held_out=dataclasses.replace(
                probed.held_out,
                rows=labelled(probed.held_out.rows),
                generated=probed.held_out.generated.with_columns(prediction=said),
            ),
        ),
    )

    assert report.held_out is not None
    change = one(report.held_out.quality_change, "macro_f1").systems["base"]
    values = [one(table, "macro_f1").systems["base"].value for table in (report.held_out.quality, report.quality)]
    assert change.value == pytest.approx(values[0] - values[1])
    assert change.n == 71 + 36


def test_the_headlines_say_which_way_it_goes(probed: tuple[EvaluationReport, Path]) -> None:
    report, _ = probed

    quality, closeness = (line for line in report.headlines if "distribution" in line)

    assert quality.startswith("Out of distribution the student’s ROUGE-L against the human references is lower: 0.")
    assert closeness.startswith("Out of distribution the student’s chrF against the teacher’s answers is lower: 0.")
    assert closeness.replace("\N{NO-BREAK SPACE}", " ").endswith("n = 36 and 71 rows.")
    assert quality in summary_markdown(report)


@pytest.mark.parametrize(
    ("rows", "is_harder", "said"),
    [
        (1, True, "On the held-out partition “law” nothing can be said of how the student’s ROUGE-L"),
        (36, False, "Out of distribution it is undecided whether the student’s ROUGE-L"),
    ],
)
def test_a_sentence_says_no_more_than_the_interval(
    tmp_path: Path, inputs: EvaluationInputs, rows: int, is_harder: bool, said: str
) -> None:
    probed = with_held_out(inputs, rows, is_harder=is_harder)
    declared = ["law"] if rows == 1 else ["law", "medicine"]
    spec = probed.spec.evaluation.model_copy(update={"held_out_partitions": declared})
    probed = dataclasses.replace(probed, spec=probed.spec.model_copy(update={"evaluation": spec}))

    headlines = write_evaluation(tmp_path, probed).headlines

    assert any(line.startswith(said) for line in headlines), headlines


def test_unanswered_rows_are_counted_apart(tmp_path: Path, inputs: EvaluationInputs) -> None:
    probed = with_held_out(inputs)
    assert probed.held_out is not None
    lost = probed.held_out.rows["prompt_id"].head(3).to_list()
    generated = probed.held_out.generated.filter(~(pl.col("prompt_id").is_in(lost) & (pl.col("model") == "student")))

    report = write_evaluation(
        tmp_path, dataclasses.replace(probed, held_out=dataclasses.replace(probed.held_out, generated=generated))
    )

    assert report.held_out is not None
    assert report.held_out.unanswered == {"base": 0, "student": 3}
    assert report.counts.unanswered == {"base": 0, "student": 0}
    assert "scored 0: Student 3." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_partition_whose_rows_were_all_dropped_is_told(tmp_path: Path, inputs: EvaluationInputs) -> None:
    probed = with_held_out(inputs)
    spec = probed.spec.evaluation.model_copy(update={"held_out_partitions": ["law", "medicine", "music"]})
    report = write_evaluation(
        tmp_path, dataclasses.replace(probed, spec=probed.spec.model_copy(update={"evaluation": spec}))
    )

    assert report.held_out is not None
    assert report.held_out.rows_per_partition == {"law": 24, "medicine": 12, "music": 0}


def test_the_page_has_a_section_only_where_there_is_something(
    tmp_path: Path, inputs: EvaluationInputs, probed: tuple[EvaluationReport, Path]
) -> None:
    write_evaluation(tmp_path, inputs)
    without, section = (
        (folder / "report.html").read_text(encoding="utf-8").partition('id="away"')[2]
        for folder in (tmp_path, probed[1])
    )

    assert not without
    for said in ("<b>law</b> (24 rows)", "Quality against human references, held out less test", "n 107/101 · Welch"):
        assert said in section
    assert evaluation_version(tmp_path) != evaluation_version(probed[1])


def test_without_references_and_with_a_hosted_teacher_only_closeness_is_compared(
    tmp_path: Path, hosted: EvaluationInputs
) -> None:
    report = write_evaluation(tmp_path, with_held_out(hosted))

    assert report.held_out is not None
    assert (report.held_out.quality, report.held_out.quality_change, report.held_out.retention) == ([], [], [])
    assert [m.name for m in report.held_out.fidelity_change] == ["perplexity", "rouge_l", "chrf", "exact_match"]
    assert EvaluationReport.model_validate_json((tmp_path / "report.json").read_text(encoding="utf-8")) == report
