"""Evaluations of the fixtures with partitions held out, the teacher asked again, and a price of the machine."""

import dataclasses
import random
from typing import Any

import polars as pl

from distill_dagster.evaluation.inputs import EvaluationInputs, HeldOutInputs
from tests.evaluation.conftest import make_fidelity, make_generated, make_test_split, spoil

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
    measured = pl.concat(fidelity) if inputs.fidelity is not None else None
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
