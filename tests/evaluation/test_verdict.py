"""The verdict on golden rows: what it is, what it spends, and that nothing else of a report has the rows in."""

from pathlib import Path

import polars as pl
import pytest

from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.model import EvaluationReport, GateVerdict
from distill_dagster.evaluation.predictions import GOLDEN, build_predictions
from distill_dagster.evaluation.verdict import reach_verdict
from distill_dagster.evaluation.write import write_evaluation
from tests.evaluation.probed import asked_again, with_gate, with_held_out


@pytest.fixture(autouse=True)
def _unplotted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill_dagster.evaluation.write.render_html", lambda *_: "")


def verdict(inputs: EvaluationInputs) -> GateVerdict:
    """Of the golden rows alone; the rest of the report is not made."""
    golden, gate = inputs.golden, inputs.spec.evaluation.gate
    assert golden is not None
    assert gate is not None
    predictions = build_predictions(golden.rows, golden.generated, None, ["rouge_l"], split=GOLDEN)
    return reach_verdict(gate, predictions, golden.look, len(inputs.candidates), golden.unverified)


@pytest.mark.parametrize(
    ("student", "status", "begins"),
    [
        (0.02, "pass", "Passed on ROUGE-L. On 142 golden rows the student's score minus the teacher's is -0.0"),
        (0.5, "fail", "Failed on ROUGE-L. On 142 golden rows"),
        (0.09, "inconclusive", "Inconclusive on ROUGE-L. On 142 golden rows"),
    ],
)
def test_the_verdict_leads_the_report(
    tmp_path: Path, inputs: EvaluationInputs, student: float, status: str, begins: str
) -> None:
    report = write_evaluation(tmp_path, with_gate(inputs, student))

    gate = report.gate
    assert gate is not None
    assert (gate.status, gate.passed) == (status, status == "pass")
    assert report.headlines[0] == gate.statement
    assert gate.statement.startswith(begins)
    assert gate.statement.endswith("This is look 1 at these golden rows for sft.")
    assert ("golden rows in all would decide" in gate.statement) == (status == "inconclusive")
    assert (gate.golden_set, gate.unverified, gate.look, gate.candidates) == ("90" * 32, 8, 1, 1)
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(("look", "candidates", "spent"), [(1, 1, 0.025), (2, 1, 0.0125), (1, 4, 0.00625)])
def test_looks_and_candidates_share_alpha(inputs: EvaluationInputs, look: int, candidates: int, spent: float) -> None:
    gated = with_gate(inputs, look=look, others=candidates - 1)

    gate = verdict(gated)

    assert (gate.alpha, gate.alpha_spent, gate.candidates) == (0.05, spent, candidates)
    assert gate.decisions["all rows"].alpha == spent
    assert (f"alpha is split among {candidates} candidates" in gate.statement) == (candidates > 1)


def test_a_student_that_passes_first_does_not_pass_late(inputs: EvaluationInputs) -> None:
    first = verdict(with_gate(inputs, 0.04))
    late = verdict(with_gate(inputs, 0.04, look=9))

    assert (first.status, late.status) == ("pass", "inconclusive")


def test_a_row_without_an_answer_scores_0(inputs: EvaluationInputs) -> None:
    gate = verdict(with_gate(inputs, unanswered=71))

    assert gate.status == "fail"
    assert gate.decisions["all rows"].n == 142
    assert gate.scores["all rows"]["student"] < 0.6 * gate.scores["all rows"]["teacher"]


def test_every_slice_has_to_pass_where_slices_are_asked_for(inputs: EvaluationInputs) -> None:
    bad = {"student": 0.02, "unanswered": 20, "max_degradation": 0.25}
    together = verdict(with_gate(inputs, **bad))
    apart = verdict(with_gate(inputs, slices=True, **bad))
    good = verdict(with_gate(inputs, slices=True, max_degradation=0.25))

    assert (together.status, list(together.decisions)) == ("pass", ["all rows"])
    assert list(apart.decisions) == ["all rows", "long", "short"]
    assert apart.status != "pass"
    assert "Slice “short”: on 71 golden rows" in apart.statement
    assert "Slice “long”" not in apart.statement
    assert good.status == "pass"
    assert "Each of the 2 slices passes too." in good.statement


def test_a_floor_is_required_of_the_students_own_score(inputs: EvaluationInputs) -> None:
    reached = verdict(with_gate(inputs, min_score=0.5))
    missed = verdict(with_gate(inputs, min_score=0.95))

    assert (reached.status, missed.status) == ("pass", "fail")
    assert "where 0.950 is required" in missed.statement


def test_a_base_that_would_pass_too_leaves_it_open(inputs: EvaluationInputs) -> None:
    gate = verdict(with_gate(inputs, max_degradation=0.95))

    assert gate.status == "inconclusive"
    assert "so would the undistilled base" in gate.statement
    assert gate.decisions["all rows"].base_would_pass is True


def test_who_is_no_candidate_has_no_verdict(tmp_path: Path, side_by_side: EvaluationInputs) -> None:
    gate = write_evaluation(tmp_path, with_gate(side_by_side, candidates=["soft"])).gate
    assert gate is not None

    assert (gate.status, gate.look, gate.alpha_spent, gate.decisions) == (None, None, None, {})
    assert gate.passed is False
    assert gate.statement.startswith("No verdict: sft is not a candidate for release")
    assert "golden" not in set(pl.read_parquet(tmp_path / "predictions.parquet")["split"])


def test_golden_rows_are_in_no_other_number(tmp_path: Path, hosted: EvaluationInputs, inputs: EvaluationInputs) -> None:
    for name, kind in {"inputs": with_held_out(inputs), "hosted": asked_again(hosted, 40)}.items():
        plain = write_evaluation(tmp_path / name / "plain", kind)
        gated = write_evaluation(tmp_path / name / "gated", with_gate(kind, metric="rouge_l"))

        left, right = plain.model_dump(), gated.model_dump()
        assert right["headlines"][1:] == left["headlines"]
        for report in (left, right):
            del report["gate"], report["headlines"], report["identity"]["versions"]["golden_set"]
        assert left == right


def test_the_rows_lie_beside_the_others(tmp_path: Path, inputs: EvaluationInputs) -> None:
    write_evaluation(tmp_path, with_gate(inputs))

    rows = pl.read_parquet(tmp_path / "predictions.parquet")
    golden = rows.filter(split="golden")
    assert dict(golden["model"].value_counts().iter_rows()) == {"teacher": 142, "student": 142, "base": 142}
    assert set(golden["slice"]) == {"short", "long"}
    assert rows.filter(split="test")["slice"].is_null().all()
    assert golden["kl_tokens"].is_null().all()
