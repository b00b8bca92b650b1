"""The gate's verdict on one student: golden scores under the declared rule, at the alpha that this look has left."""

from collections.abc import Collection, Mapping

import polars as pl

from distill_dagster.evaluation.gate import Decision, GateRule, GoldenScores, Status, combine, decide
from distill_dagster.evaluation.model import GateVerdict, System
from distill_dagster.evaluation.multiplicity import alpha_of_look
from distill_dagster.evaluation.predictions import KEY, vs_reference
from distill_dagster.golden.looks import Look
from distill_dagster.golden.rows import OVERALL
from distill_dagster.metrics import metric_label
from distill_dagster.spec.evaluation import GateSpec

_SAID: Mapping[Status, str] = {Status.PASS: "Passed", Status.FAIL: "Failed", Status.INCONCLUSIVE: "Inconclusive"}
_OPENINGS = ("Pass: ", "Fail: ", "Not decided: ")  # of a decision's reason; said once before


def reach_verdict(
    gate: GateSpec, predictions: pl.DataFrame, look: Look, candidates: int, unverified: int
) -> GateVerdict:
    """Decides, with the reasons.

    Args:
        gate: as declared.
        predictions: scored golden rows of teacher, student and base (columns of `build_predictions`).
        look: which look at these rows it is.
        candidates: students among which alpha is split.
        unverified: golden rows left out.
    """
    alpha = alpha_of_look(gate.alpha, look.number, candidates)
    rule = GateRule(gate.max_degradation, gate.min_score, alpha)
    parts = {OVERALL: predictions}
    if gate.slices:
        parts |= {str(name): rows for (name,), rows in sorted(predictions.partition_by("slice", as_dict=True).items())}
    decisions = {name: decide(_scores(rows, gate.metric), rule) for name, rows in parts.items()}
    status = combine(decisions).status
    return GateVerdict(
        metric=gate.metric,
        max_degradation=gate.max_degradation,
        min_score=gate.min_score,
        alpha=gate.alpha,
        alpha_spent=alpha,
        look=look.number,
        candidates=candidates,
        golden_set=look.golden_version,
        unverified=unverified,
        status=status,
        statement=_statement(gate, status, decisions, look, candidates),
        decisions=decisions,
        scores={name: _means(rows, gate.metric) for name, rows in parts.items()},
    )


def no_candidate(gate: GateSpec, student: str, candidates: Collection[str], golden_set: str) -> GateVerdict:
    """What is said of a student that is not among the declared candidates: no look, no verdict.

    Args:
        candidates: students among which alpha is split.
        golden_set: its version.
    """
    return GateVerdict(
        metric=gate.metric,
        max_degradation=gate.max_degradation,
        min_score=gate.min_score,
        alpha=gate.alpha,
        alpha_spent=None,
        look=None,
        candidates=len(candidates),
        golden_set=golden_set,
        unverified=0,
        status=None,
        statement=(
            f"No verdict: {student} is not a candidate for release (evaluation.gate.candidates: "
            f"{', '.join(gate.candidates or ())}), so the golden rows were not looked at."
        ),
        decisions={},
    )


def _scores(predictions: pl.DataFrame, metric: str) -> GoldenScores:
    column = vs_reference(metric)

    def of(system: System) -> pl.DataFrame:
        return predictions.filter(pl.col("model") == system.value).sort(KEY)

    student, teacher, base = of(System.STUDENT), of(System.TEACHER), of(System.BASE)
    return GoldenScores(
        student=student[column].to_numpy(),
        teacher=teacher[column].to_numpy(),
        base=base[column].to_numpy() if len(base) else None,
        clusters=student["group_id"].to_list(),
    )


def _means(predictions: pl.DataFrame, metric: str) -> dict[str, float]:
    """By system."""
    return dict(predictions.group_by("model").agg(pl.col(vs_reference(metric)).mean()).sort("model").iter_rows())


def _statement(gate: GateSpec, status: Status, decisions: Mapping[str, Decision], look: Look, candidates: int) -> str:
    shared = f", and alpha is split among {candidates} candidates" if candidates > 1 else ""
    return (
        f"{_SAID[status]} on {metric_label(gate.metric)}. {_reason(status, decisions)} "
        f"This is look {look.number} at these golden rows for {look.student}{shared}."
    )


def _reason(status: Status, decisions: Mapping[str, Decision]) -> str:
    """Of all rows, or of the slices that stand in the way of a pass."""
    slices = len(decisions) - 1
    if not slices:
        return _sentence(decisions[OVERALL])
    if status is Status.PASS:
        each = "Its only slice" if slices == 1 else f"Each of the {slices} slices"
        return f"{_sentence(decisions[OVERALL])} {each} passes too."
    named = [name for name, decision in decisions.items() if decision.status is status]
    return " ".join(f"{_place(name)}: {_unopened(decisions[name])}" for name in named)


def _place(name: str) -> str:
    return "All rows together" if name == OVERALL else f"Slice “{name}”"


def _sentence(decision: Decision) -> str:
    reason = _unopened(decision)
    return reason[:1].upper() + reason[1:]


def _unopened(decision: Decision) -> str:
    """The reason without the status in front."""
    reason = decision.reason
    for opening in _OPENINGS:
        reason = reason.removeprefix(opening)
    return reason
