"""The gate's verdict on one student: golden scores under the declared rule, at the alpha that this look has left."""

from collections.abc import Mapping

import polars as pl

from distill_dagster.evaluation.gate import Decision, GateRule, GoldenScores, Status, combine, decide
from distill_dagster.evaluation.model import GateVerdict, System
from distill_dagster.evaluation.multiplicity import alpha_of_look
from distill_dagster.evaluation.predictions import KEY, vs_reference
from distill_dagster.golden.looks import Look
from distill_dagster.metrics import metric_label
from distill_dagster.spec.evaluation import GateSpec

OVERALL = "all rows"


def reach_verdict(
    gate: GateSpec, predictions: pl.DataFrame, look: Look, candidates: int, unverified: int
) -> GateVerdict:
    """Decides, with the reasons.

    Args:
        gate: as declared.
        predictions: scored golden rows of teacher, student and base (columns of `build_predictions`, and `slice`).
        look: which look at these rows it is.
        candidates: students among which alpha is split.
        unverified: golden rows left out.
    """
    alpha = alpha_of_look(gate.alpha, look.number, candidates)
    rule = GateRule(gate.max_degradation, gate.min_score, alpha)
    decisions = {OVERALL: decide(_scores(predictions, gate.metric), rule)}
    if gate.slices:
        for (name,), rows in sorted(predictions.partition_by("slice", as_dict=True).items()):
            decisions[str(name)] = decide(_scores(rows, gate.metric), rule)
    joint = combine(decisions) if len(decisions) > 1 else decisions[OVERALL]
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
        status=joint.status,
        statement=_statement(gate, joint, look, candidates),
        decisions=decisions,
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


def _statement(gate: GateSpec, joint: Decision, look: Look, candidates: int) -> str:
    said: Mapping[Status, str] = {
        Status.PASS: "Passed",
        Status.FAIL: "Failed",
        Status.INCONCLUSIVE: "Inconclusive",
    }
    shared = f", and alpha is split among {candidates} candidates" if candidates > 1 else ""
    return (
        f"{said[joint.status]} on {metric_label(gate.metric)}. {joint.reason} "
        f"This is look {look.number} at these golden rows for {look.student}{shared}."
    )
