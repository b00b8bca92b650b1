"""The scripts of docs/recompute.md come to the report's numbers, from predictions.parquet alone."""

import dataclasses
import json
import math
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.evaluation.cost import SECONDS, USD
from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.model import EvaluationReport, GateVerdict, Measure
from distill_dagster.evaluation.statistics import Method
from distill_dagster.evaluation.write import write_evaluation
from tests.evaluation.conftest import make_spec
from tests.evaluation.probed import asked_again, declared, with_gate, with_held_out
from tests.evaluation.recomputing import run, said, scripts, table

MOST_LINES = 10
EXACT = 1e-9


def written(folder: Path, inputs: EvaluationInputs) -> tuple[EvaluationReport, Path]:
    write_evaluation(folder, inputs)
    report = EvaluationReport.model_validate_json((folder / "report.json").read_text(encoding="utf-8"))
    return report, folder / "predictions.parquet"


def in_groups(inputs: EvaluationInputs, groups: int) -> EvaluationInputs:
    """The same rows in fewer groups, so that intervals are t intervals."""
    group = (pl.col("prompt_id").str.slice(0, 4).cast(pl.Int64) % groups).cast(pl.String)
    return dataclasses.replace(inputs, test=inputs.test.with_columns(group_id=group))


def with_gaps(inputs: EvaluationInputs) -> EvaluationInputs:
    """The same with answers, references and measures per token that some rows lack."""
    at = pl.col("prompt_id").str.slice(0, 4).cast(pl.Int64)
    assert inputs.fidelity is not None
    return dataclasses.replace(
        inputs,
        test=inputs.test.with_columns(reference=pl.when(at % 5 > 0).then("reference")),
        generated=inputs.generated.filter((at % 11 > 0) | (pl.col("model") == "base")),
        fidelity=inputs.fidelity.filter((at % 7 > 0) | (pl.col("model") == "bigram")),
    )


def classified(inputs: EvaluationInputs) -> EvaluationInputs:
    """The same as a classification into three labels, with answers and references that are none of them."""
    at = pl.col("prompt_id").str.slice(0, 4).cast(pl.Int64)
    spec = make_spec(metrics=["label_accuracy", "macro_f1"], gate=None)
    teacher = spec.teacher.model_copy(update={"labels": ["red", "green", "blue"]})

    def of(number: pl.Expr, *texts: str) -> pl.Expr:
        return number.replace_strict(dict(enumerate(texts)), return_dtype=pl.String)

    right = of(at % 4, "red", "Green", "“blue”", "none of them")
    return dataclasses.replace(
        inputs,
        spec=spec.model_copy(update={"teacher": teacher}),
        test=inputs.test.with_columns(reference=right, completion=of(at % 3, "RED", "green", "blue.")),
        generated=inputs.generated.with_columns(
            prediction=pl.when(pl.col("model") == "base").then(of(at % 2, "red", "purple")).otherwise(right)
        ).filter((at % 13 > 0) | (pl.col("model") == "base")),
    )


def test_the_scripts_are_short_and_stand_alone() -> None:
    of_predictions = ["recompute", "intervals", "perplexity", "change", "macro_f1", "golden"]
    of_other_files = ["judge", "judge_intervals", "harness"]
    assert list(scripts()) == [*of_predictions, *of_other_files, "counts", "costs"]
    for script in scripts().values():
        assert len([line for line in script.splitlines() if line.strip()]) <= MOST_LINES
        assert "distill_dagster" not in script


@pytest.mark.parametrize("kind", ["side_by_side", "hosted", "gaps"])
def test_estimates_and_differences(tmp_path: Path, request: pytest.FixtureRequest, kind: str) -> None:
    named = request.getfixturevalue("side_by_side" if kind == "gaps" else kind)
    report, predictions = written(tmp_path, with_gaps(named) if kind == "gaps" else named)

    found = table(run(scripts()["recompute"], predictions))

    compared = 0
    for column, measure, left, right, estimate in said(report):
        if estimate.n == 0:
            assert (column, left, right) not in found
            continue
        row = found[column, left, right]
        value = row["left"] if left == right else row["difference"]
        if measure.name == "perplexity":
            value = math.exp(row["left"]) - (math.exp(row["right"]) if left != right else 0)
        assert value == pytest.approx(estimate.value, rel=EXACT, abs=EXACT), (measure.name, left, right)
        assert row["n"] == estimate.n
        compared += 1
    assert compared > 20
    if report.quality_kept.value is not None:
        row = found[f"{report.primary_metric}_vs_reference", "student", "teacher"]
        assert row["left"] / row["right"] == pytest.approx(report.quality_kept.value, rel=EXACT)
    assert_shares(report.retention, found, "reference", "teacher")


def assert_shares(
    shares: list[Measure], found: dict[tuple[str, ...], dict[str, float]], column: str, whole: str
) -> int:
    compared = 0
    for measure in shares:
        for system, share in measure.systems.items():
            row = found[f"{measure.name}_vs_{column}", system, whole]
            if share.value is not None:
                assert row["left"] / row["right"] == pytest.approx(share.value, rel=EXACT)
                compared += 1
            assert row["n"] == share.n
    return compared


def test_the_teachers_agreement_with_itself(tmp_path: Path, hosted: EvaluationInputs) -> None:
    report, predictions = written(tmp_path, asked_again(hosted, 40))

    found = table(run(scripts()["recompute"], predictions))

    assert report.second_sample is not None
    assert assert_shares(report.second_sample.reached, found, "teacher", "teacher_again") == 6
    assert found["chrf_vs_teacher", "student", "teacher_again"]["n"] == 40


def test_held_out_rows(tmp_path: Path, side_by_side: EvaluationInputs) -> None:
    report, predictions = written(tmp_path, with_held_out(side_by_side))
    away = report.held_out
    assert away is not None

    found = table(run(scripts()["recompute"], predictions), "held_out")

    compared = 0
    for column, measure, left, right, estimate in said(away, ("quality", "fidelity")):
        if estimate.n:
            value = found[column, left, right]["left" if left == right else "difference"]
            if measure.name == "perplexity":
                left_value, right_value = (math.exp(found[column, left, right][side]) for side in ("left", "right"))
                value = left_value - (right_value if left != right else 0)
            assert value == pytest.approx(estimate.value, rel=EXACT, abs=EXACT), (measure.name, left, right)
            assert found[column, left, right]["n"] == estimate.n
            compared += 1
    assert compared > 40
    assert assert_shares(away.retention, found, "reference", "teacher") == 8


def test_changes_out_of_distribution(tmp_path: Path, side_by_side: EvaluationInputs) -> None:
    report, predictions = written(tmp_path, with_held_out(side_by_side))
    both = scripts()["recompute"] + scripts()["change"]
    alone = len(run(scripts()["recompute"], predictions))

    found = {tuple(row[:3]): list(map(float, row[3:])) for row in run(both, predictions)[alone:]}

    assert report.held_out is not None
    compared = 0
    for column, measure, left, right, estimate in said(report.held_out, ("quality_change", "fidelity_change")):
        if measure.name == "perplexity":
            continue
        value, *ends = found[column, left, right]
        assert value == pytest.approx(estimate.value, rel=EXACT, abs=EXACT), (measure.name, left, right)
        if estimate.interval is not None:
            assert estimate.method == Method.WELCH_T
            assert ends == pytest.approx(estimate.interval, rel=EXACT, abs=EXACT), (measure.name, left, right)
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("groups", [None, 9])
def test_intervals(tmp_path: Path, inputs: EvaluationInputs, groups: int | None) -> None:
    gaps = with_gaps(inputs)
    report, predictions = written(tmp_path, in_groups(gaps, groups) if groups else gaps)
    both = scripts()["recompute"] + scripts()["intervals"]
    alone = len(run(scripts()["recompute"], predictions))

    found = {tuple(row[:3]): list(map(float, row[3:])) for row in run(both, predictions)[alone:]}

    methods = set()
    for column, measure, left, right, estimate in said(report):
        if estimate.interval is None or (measure.name == "perplexity" and left != right):
            continue
        low, high, boot_low, boot_high, n = found[column, left, right]
        ends = (low, high) if estimate.method == Method.CLUSTER_T else (boot_low, boot_high)
        if measure.name == "perplexity":
            ends = (math.exp(ends[0]), math.exp(ends[1]))
        assert ends == pytest.approx(estimate.interval, rel=EXACT, abs=EXACT), (measure.name, left, right)
        assert n == estimate.n_clusters
        methods.add(estimate.method)
    assert methods >= ({Method.CLUSTER_T} if groups else {Method.CLUSTER_BOOTSTRAP})


@pytest.mark.parametrize("groups", [None, 9])
def test_perplexity(tmp_path: Path, inputs: EvaluationInputs, groups: int | None) -> None:
    gaps = with_gaps(inputs)
    report, predictions = written(tmp_path, in_groups(gaps, groups) if groups else gaps)
    alone = len(run(scripts()["recompute"], predictions))

    lines = run(scripts()["recompute"] + scripts()["perplexity"], predictions)[alone:]

    found = {tuple(row[:2]): list(map(float, row[2:])) for row in lines}
    compared = 0
    for _, measure, left, right, estimate in said(report, ("fidelity",)):
        if measure.name != "perplexity" or left == right:
            continue
        mine, other, difference, low, high, boot_low, boot_high = found[left, right]
        assert difference == pytest.approx(estimate.value, rel=EXACT)
        assert mine - other == pytest.approx(difference, rel=EXACT)
        ends = (low, high) if estimate.method == Method.CLUSTER_T else (boot_low, boot_high)
        assert ends == pytest.approx(estimate.interval, rel=EXACT)
        compared += 1
    assert compared == 1


@pytest.mark.parametrize("groups", [None, 9])
def test_the_interval_of_the_quality_kept(tmp_path: Path, inputs: EvaluationInputs, groups: int | None) -> None:
    report, predictions = written(tmp_path, in_groups(inputs, groups) if groups else inputs)
    intervals = scripts()["intervals"]
    spread = next(line.strip() for line in intervals.splitlines() if line.strip().startswith("spread ="))
    for before, after in (
        ("value, n = x.sum() / y.sum() - u.sum() / v.sum()", "value, n = x.sum() / u.sum()"),
        (spread, "spread = (x - x.sum() / u.sum() * u) / u.sum()"),
        ("np.quantile(x / y - u / v", "np.quantile(x / u"),
    ):
        assert before in intervals
        intervals = intervals.replace(before, after)

    lines = run(scripts()["recompute"] + intervals, predictions)

    wanted = [f"{report.primary_metric}_vs_reference", "student", "teacher"]
    (ends,) = [list(map(float, line[3:])) for line in lines if line[:3] == wanted and len(line) == 8]
    found = ends[:2] if groups else ends[2:4]
    assert found == pytest.approx(list(report.quality_kept.interval or ()), rel=EXACT)


def test_macro_f1(tmp_path: Path, inputs: EvaluationInputs) -> None:
    report, predictions = written(tmp_path, classified(inputs))

    lines = [line[0].split() for line in run(scripts()["macro_f1"], predictions)]

    found = {tuple(line[:3]): (float(line[3]), float(line[4])) for line in lines}
    targets = {"macro_f1_vs_reference": "reference_label", "macro_f1_vs_teacher": "teacher_label"}
    compared = 0
    for column, measure, left, right, estimate in said(report):
        if measure.name != "macro_f1":
            continue
        value, reach = found[targets[column], left, right]
        assert value == pytest.approx(estimate.value, rel=EXACT)
        if estimate.interval is None:
            assert reach == pytest.approx(0, abs=EXACT)
        else:
            assert (value - reach, value + reach) == pytest.approx(estimate.interval, rel=EXACT)
        compared += 1
    assert compared == 8
    quality = report.measure("quality", "macro_f1")
    assert quality is not None
    assert quality.systems["student"].n < report.counts.test_rows  # a reference that is no label is left out


def test_the_gate(tmp_path: Path, inputs: EvaluationInputs) -> None:
    report, predictions = written(tmp_path, with_gate(with_held_out(inputs), 0.1, unanswered=5, slices=True))
    gate = report.gate
    assert gate is not None

    header, *rows = run(scripts()["golden"], predictions)

    found = {row[0]: dict(zip(header[2:], map(float, row[2:]), strict=True)) for row in rows if row[1] == column(gate)}
    assert set(found) == set(gate.decisions) == {"all rows", "short", "long"}
    for name, decision in gate.decisions.items():
        row = found[name]
        assert {system: row[system] for system in gate.scores[name]} == pytest.approx(gate.scores[name], rel=EXACT)
        assert row["difference"] == pytest.approx(decision.difference, rel=EXACT)
        assert (row["n"], row["groups"]) == (decision.n, decision.n_clusters)


def column(gate: GateVerdict) -> str:
    return f"{gate.metric}_vs_reference"


def test_counts(tmp_path: Path, side_by_side: EvaluationInputs) -> None:
    report, predictions = written(tmp_path, with_gaps(side_by_side))

    header, *rows = run(scripts()["counts"], predictions)

    found = {row[1]: dict(zip(header[2:], map(int, row[2:]), strict=True)) for row in rows}
    counts = report.counts
    student = found["student"]
    assert (student["rows"], student["groups"]) == (counts.test_rows, counts.test_groups)
    assert student["reference"] == counts.rows_with_reference
    assert student["rows"] - student["measured_per_token"] == counts.rows_without_fidelity
    assert {name: found[name]["rows"] - found[name]["answered"] for name in counts.unanswered} == counts.unanswered
    assert not math.isclose(sum(counts.unanswered.values()), 0)


def test_costs(tmp_path: Path, side_by_side: EvaluationInputs) -> None:
    priced = declared(dataclasses.replace(side_by_side, teacher_usd_per_1000_answers=1.83), cost={"usd_per_hour": 2.4})
    _, predictions = written(tmp_path, priced)

    found = {row[0]: {SECONDS: float(row[1]), USD: float(row[2])} for row in run(scripts()["costs"], predictions)}

    cost = json.loads((tmp_path / "measurements.json").read_text(encoding="utf-8"))["cost"]
    assert found.keys() == cost.keys() == {"teacher", "student", "student/soft", "student/on_references", "base"}
    for system, known in cost.items():
        for unit, value in known.items():
            assert found[system][unit] == pytest.approx(value, rel=EXACT), (system, unit)
