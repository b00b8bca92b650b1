"""Gathers what a report is made from: predictions, dataset, students' manifests, what the teacher cost."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.dataset.build import dropped_rows
from distill_dagster.dataset.files import HELD_OUT_FILE
from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.golden import gate_candidates, golden_versions
from distill_dagster.evaluation.inputs import CaptureCost, EvaluationInputs, GoldenInputs, HeldOutInputs, TrainedStudent
from distill_dagster.evaluation.model import ModelNames, Versions
from distill_dagster.evaluation.prediction_files import Predicted
from distill_dagster.evaluation.score import base_origin
from distill_dagster.evaluation.subjects import Subjects
from distill_dagster.lineage.manifests import read_manifest, spec_hash
from distill_dagster.lineage.model_folder import find_model
from distill_dagster.project import Distillation
from distill_dagster.prompts.splits import Split
from distill_dagster.prompts.store import read_prompts
from distill_dagster.spec.students import BaseSpec
from distill_dagster.storage import read_current, read_json
from distill_dagster.students.build import StudentBuild
from distill_dagster.teachers.outputs import read_outputs
from distill_dagster.teachers.store.budget import MICRO


def evaluation_inputs(
    distillation: Distillation,
    subjects: Subjects,
    test: pl.DataFrame,
    predicted: Predicted,
    held_out: HeldOutInputs | None = None,
    golden: GoldenInputs | None = None,
) -> EvaluationInputs:
    """All of it.

    Args:
        test: the dataset's test split.
        predicted: what the models did on it.
        held_out: what they did on held-out partitions, where there are any.
        golden: what the gate is decided on, where there is one for this student.

    Raises:
        EvaluationError: there is no current dataset.
    """
    spec = distillation.spec
    dataset = distillation.files.asset("dataset") / subjects.dataset
    trained = subjects.student
    base = spec.students[trained.name].base
    return EvaluationInputs(
        distillation=distillation.name,
        student=_trained(distillation, trained),
        companions=tuple(_trained(distillation, other) for other in subjects.companions.values()),
        spec=spec,
        spec_hash=spec_hash(spec),
        versions=Versions(
            dataset=subjects.dataset,
            student=trained.version,
            teacher=subjects.teacher,
            golden_set=golden_versions(distillation).get("golden_set"),
        ),
        models=ModelNames(
            teacher=spec.teacher.model,
            student=f"{distillation.name}/{trained.name}",
            base=_base_name(distillation, base),
        ),
        rows_per_split={
            split: int(count)
            for split, count in read_manifest(dataset)["counts"].items()
            if split in {one.value for one in Split}
        },
        test=test,
        dropped=_dropped(distillation),
        generated=predicted.generated,
        fidelity=predicted.fidelity,
        results=predicted.results,
        teacher_layers=_layers(distillation, base.prune),
        held_out=held_out,
        golden=golden,
        candidates=tuple(gate_candidates(distillation)),
        folder=distillation.folder,
        project_root=distillation.project.root,
        teacher_usd_per_1000_answers=None if spec.teacher.is_local else _usd_per_1000(distillation, dataset),
    )


def held_out_rows(distillation: Distillation, dataset: Path) -> pl.DataFrame | None:
    """The rows of a dataset's held-out partitions; None where none is held out.

    Raises:
        EvaluationError: none of their rows is in the dataset.
    """
    declared = distillation.spec.evaluation.held_out_partitions
    if not declared:
        return None
    file = dataset / HELD_OUT_FILE
    if not file.is_file():
        raise EvaluationError(
            f"{distillation.name}: no usable row of the held-out partitions {', '.join(declared)} is in the dataset; "
            "hold out other ones in evaluation.held_out_partitions, or see why the teacher's answers there are dropped"
        )
    return pl.read_parquet(file)


def asked_rows(distillation: Distillation, dataset: Path, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of a dataset with teacher_messages, from the very prompts that the dataset was built from."""
    inputs: dict[str, str] = read_manifest(dataset)["inputs"]
    frames = [
        read_prompts(distillation, name.removeprefix("prompts/"), version)
        .select("prompt_id", teacher_messages="messages")
        .join(rows.select("prompt_id"), on="prompt_id", how="semi")
        for name, version in inputs.items()
        if name.startswith("prompts/")
    ]
    return rows.join(pl.concat(frames), on="prompt_id", how="left", maintain_order="left")


def _trained(distillation: Distillation, build: StudentBuild) -> TrainedStudent:
    details: Mapping[str, Any] = read_manifest(build.folder)["details"]
    training = build.result.model_copy(update={"measurements": read_json(build.folder / "measurements.json")})
    base = distillation.spec.students[build.name].base
    capture = details.get("capture")
    return TrainedStudent(
        name=build.name,
        version=build.version,
        objective=details["objective"],
        targets=details.get("targets") or "teacher",
        origin=base_origin(base, _base_name(distillation, base), training),
        training=training,
        capture=CaptureCost(capture.get("bytes_per_token"), capture.get("seconds")) if capture else None,
    )


def _base_name(distillation: Distillation, base: BaseSpec) -> str:
    return base.model or (distillation.spec.teacher.model if base.prune == "teacher" else str(base.prune))


def _dropped(distillation: Distillation) -> pl.DataFrame:
    """What the current dataset's build left out."""
    current = read_current(distillation.files.asset("dataset"))
    if current is None or current.build_key is None:
        raise EvaluationError(f"{distillation.name}: there is no current dataset; materialise it first")
    return dropped_rows(distillation, current.build_key)


def _usd_per_1000(distillation: Distillation, dataset: Path) -> float:
    """What 1,000 of the answers behind a dataset did cost, from the provider's usage."""
    inputs: dict[str, str] = read_manifest(dataset)["inputs"]
    names = [(name.removeprefix("teacher_outputs/"), v) for name, v in inputs.items() if name.startswith("teacher_o")]
    costs = pl.concat(read_outputs(distillation, partition, version)["cost_microusd"] for partition, version in names)
    return float(costs.sum()) / len(costs) * 1000 / MICRO


def _layers(distillation: Distillation, pruned: str | None) -> int | None:
    """Layers of the model that a base was cut from."""
    if pruned is None:
        return None
    source = find_model(distillation, distillation.spec.teacher.model if pruned == "teacher" else pruned)
    layers = json.loads((source / "config.json").read_text(encoding="utf-8")).get("num_hidden_layers")
    return int(layers) if layers is not None else None
