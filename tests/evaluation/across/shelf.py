"""Publishes evaluations as the stage does, without a model."""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from distill_dagster.evaluation.across.stored import StoredEvaluation, find_evaluation
from distill_dagster.evaluation.harness_files import outcome_inputs
from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.write import evaluation_version, write_evaluation
from distill_dagster.lineage.manifests import MANIFEST_FILE, Manifest, write_manifest
from distill_dagster.project import Distillation, Project
from distill_dagster.storage import Current, write_current
from tests.evaluation.conftest import make_inputs, make_spec

NIGHT = datetime(2026, 11, 24, 19, tzinfo=UTC)
AT = pl.col("prompt_id").str.slice(0, 4).cast(pl.Int64)
"""A row's number in the test split of `make_inputs`."""


def small_inputs(**evaluation: object) -> EvaluationInputs:
    """`make_inputs` with few metrics."""
    spec = make_spec(**{"metrics": ["rouge_l", "exact_match"], "gate": None, **evaluation})
    return dataclasses.replace(make_inputs(), spec=spec)


def distillation_in(root: Path) -> Distillation:
    return Distillation(Project(root, root / ".distill"), "faq", root / "assets" / "faq", make_spec())


def publish(
    distillation: Distillation,
    inputs: EvaluationInputs,
    *,
    hour: int = 0,
    current: bool = True,
    code: str = "0.1.0",
    outcomes: Mapping[str, str] | None = None,
) -> StoredEvaluation:
    """Args:
    hour: hours after 19:00 UTC at which it was written.
    outcomes: keys of the harness's outcomes by system.
    """
    student = inputs.student.name
    home = distillation.files.asset(f"evaluations/{student}")
    aside = home / "aside"
    write_evaluation(aside, inputs)
    version = evaluation_version(aside)
    folder = home / version
    shutil.move(aside, folder)
    versions = inputs.versions.model_dump(exclude_none=True) | {"base": "ba" * 16} | outcome_inputs(outcomes or {})
    write_manifest(folder, Manifest("faq", f"evaluation/{student}", version, "key", versions, inputs.spec_hash))
    manifest = folder / MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace('"code_version": "0.1.0"', f'"code_version": "{code}"'))
    written = NIGHT.timestamp() + hour * 3600
    os.utime(manifest, (written, written))
    if current:
        write_current(home, Current(version))
    return find_evaluation(distillation, f"{student}@{version}")


def answering(inputs: EvaluationInputs, prediction: pl.Expr) -> EvaluationInputs:
    """The same with other answers of the student; `prediction` may use the row's `completion` and `reference`."""
    texts = inputs.test.select("prompt_id", "sample", "completion", "reference")
    own = inputs.generated.join(texts, on=["prompt_id", "sample"])
    is_student = pl.col("model") == "student"
    chosen = own.with_columns(pl.when(is_student).then(prediction).otherwise("prediction").alias("prediction"))
    return dataclasses.replace(inputs, generated=chosen.drop("completion", "reference"))


def retrained(inputs: EvaluationInputs, version: str) -> EvaluationInputs:
    """The same of another version of the student."""
    return dataclasses.replace(
        inputs,
        student=dataclasses.replace(inputs.student, version=version),
        versions=inputs.versions.model_copy(update={"student": version}),
    )
