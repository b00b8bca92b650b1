"""Evaluations of the fixtures with partitions held out, the teacher asked again, a price of the machine, and a gate."""

import dataclasses
import random
from typing import Any

import polars as pl

from distill_dagster.evaluation.inputs import EvaluationInputs, GoldenInputs, HeldOutInputs
from distill_dagster.golden.looks import Look
from distill_dagster.spec.golden import GoldenSetSpec
from tests.evaluation.conftest import make_fidelity, make_generated, make_test_split, spoil, without_distributions

AWAY = {"astronomy": "law", "cooking": "law", "travel": "medicine"}


def declared(inputs: EvaluationInputs, **evaluation: Any) -> EvaluationInputs:
    """The same with other keys of `evaluation:`."""
    spec = inputs.spec
    changed = spec.evaluation.model_validate(spec.evaluation.model_dump() | evaluation)
    return dataclasses.replace(inputs, spec=spec.model_copy(update={"evaluation": changed}))


def with_held_out(inputs: EvaluationInputs, rows: int = 36, *, is_harder: bool = True) -> EvaluationInputs:
    """The same with `rows` rows of two held-out partitions; where they are harder, student and base swap places."""
    away = make_test_split().head(rows)
    away = away.with_columns(
        pl.concat_str(pl.lit("away-"), "prompt_id").alias("prompt_id"),
        pl.concat_str(pl.lit("away-"), "group_id").alias("group_id"),
        pl.col("partition").replace(AWAY),
        pl.when(inputs.test["reference"].is_not_null().any()).then("reference").alias("reference"),
    )
    swapped = pl.col("model").replace({"student": "base", "base": "student"} if is_harder else {})
    generated = [make_generated(away).with_columns(model=swapped)]
    fidelity = [make_fidelity(away).with_columns(model=swapped)]
    for other in inputs.companions:
        named = pl.lit(f"student/{other.name}").alias("model")
        generated.append(generated[0].filter(pl.col("model") == "student").with_columns(named))
        fidelity.append(fidelity[0].filter(pl.col("model") == "student").with_columns(named))
    measured = pl.concat(fidelity)
    if inputs.versions.teacher is None:
        measured = without_distributions(measured)
    held_out = HeldOutInputs(away, pl.concat(generated), measured)
    return dataclasses.replace(
        declared(inputs, held_out_partitions=["law", "medicine"]),
        held_out=held_out,
        rows_per_split={**inputs.rows_per_split, "held_out": rows},
    )


def asked_again(inputs: EvaluationInputs, prompts: int | None = None) -> EvaluationInputs:
    """The same with a second answer of the teacher to the first prompts, which repeats four words of five."""
    rng = random.Random(13)
    rows = [
        (prompt_id, sample, "teacher_again", spoil(rng, completion, 0.2), None, True)
        for prompt_id, sample, completion in inputs.test.select("prompt_id", "sample", "completion").iter_rows()
    ][:prompts]
    again = pl.DataFrame(rows, schema=inputs.generated.schema, orient="row")
    return dataclasses.replace(inputs, generated=pl.concat([inputs.generated, again]))


def with_gate(
    inputs: EvaluationInputs, student: float = 0.02, *, unanswered: int = 0, look: int = 1, others: int = 0, **gate: Any
) -> EvaluationInputs:
    """The same with a gate on 142 golden rows in two slices; half of them have the ids of test rows.

    The teacher repeats four words of five of the references, the student `student` less of the teacher's, the base next
    to nothing.

    Args:
        student: share of the teacher's words that the student spoils.
        unanswered: golden rows that the student left out, the first ones.
        others: further candidates.
        gate: keys of `evaluation.gate`; where it leaves `sft` out of the candidates, nothing is looked at.
    """
    rng = random.Random(17)
    rows = pl.concat(
        make_test_split().with_columns(
            pl.concat_str("prompt_id", pl.lit(mark)).alias("prompt_id"),
            pl.concat_str("group_id", pl.lit(mark)).alias("group_id"),
            partition=pl.lit("golden_set"),
            reference=pl.col("completion"),
            slice=pl.lit(name),
        )
        for name, mark in {"short": "", "long": "-golden"}.items()
    )
    rows = rows.with_columns(completion=pl.Series([spoil(rng, text, 0.2) for text in rows["completion"]]))
    said = [(key, text, spoil(rng, text, student)) for key, text in rows.select("prompt_id", "completion").iter_rows()]
    answers = [(key, 0, "student", own, 9, True) for key, _, own in said[unanswered:]]
    answers += [(key, 0, "base", spoil(rng, text, 0.9), 9, True) for key, text, _ in said]
    generated = pl.DataFrame(answers, schema=inputs.generated.schema, orient="row")
    declared_gate = {"metric": "rouge_l", "max_degradation": 0.1, **gate}
    spec = inputs.spec.model_copy(update={"golden_set": GoldenSetSpec(jsonl="golden.jsonl", slice="length")})
    changed = declared(dataclasses.replace(inputs, spec=spec), gate=declared_gate)
    looked_at = GoldenInputs(rows, generated, 8, Look(look, "sft", "57" * 32, "90" * 32, {}))
    candidates = gate.get("candidates", ["sft", *(f"other_{index}" for index in range(others))])
    return dataclasses.replace(
        changed,
        golden=looked_at if "sft" in candidates else None,
        candidates=tuple(candidates),
        versions=inputs.versions.model_copy(update={"golden_set": "90" * 32}),
    )
