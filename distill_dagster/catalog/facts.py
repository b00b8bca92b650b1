"""What manifests say of students, evaluations and releases, as small frames with one row each."""

import json
from collections.abc import Iterable
from typing import Any

import polars as pl

from distill_dagster.catalog.stored import Kind, StoredVersion, stored_versions
from distill_dagster.lineage.manifests import read_manifest
from distill_dagster.storage import DistillationFolder, read_json

STUDENTS_SCHEMA = {
    "distillation": pl.String,
    "student": pl.String,
    "version": pl.String,
    "current": pl.Boolean,
    "objective": pl.String,
    "targets": pl.String,
    "dataset_version": pl.String,
    "base_version": pl.String,
    "teacher": pl.String,
    "authorization": pl.String,
    "rows_trained": pl.Int64,
    "teacher_cost_microusd": pl.Int64,
    "spec_hash": pl.String,
    "code_version": pl.String,
    "build_key": pl.String,
}
EVALUATIONS_SCHEMA = {
    "distillation": pl.String,
    "student": pl.String,
    "version": pl.String,
    "current": pl.Boolean,
    "student_version": pl.String,
    "dataset_version": pl.String,
    "base_version": pl.String,
    "teacher_version": pl.String,
    "test_rows": pl.Int64,
    "spec_hash": pl.String,
    "code_version": pl.String,
    "build_key": pl.String,
    "folder": pl.String,
}
RELEASES_SCHEMA = {
    "distillation": pl.String,
    "student": pl.String,
    "version": pl.String,
    "evaluation_version": pl.String,
    "content": pl.String,
}
DATASETS_SCHEMA = {
    "distillation": pl.String,
    "version": pl.String,
    "current": pl.Boolean,
    "build_key": pl.String,
    "spec_hash": pl.String,
    "code_version": pl.String,
}
DATASET_INPUTS_SCHEMA = {
    "distillation": pl.String,
    "version": pl.String,
    "current": pl.Boolean,
    "asset": pl.String,
    "partition": pl.String,
    "input_version": pl.String,
}

_MADE_BY = ("build_key", "spec_hash", "code_version")


def students_frame(folders: Iterable[DistillationFolder]) -> pl.DataFrame:
    """Every stored student: STUDENTS columns."""
    rows = [_student(one) for folder in folders for one in stored_versions(folder, [Kind.STUDENTS])]
    return pl.DataFrame(rows, schema=STUDENTS_SCHEMA, orient="row")


def evaluations_frame(folders: Iterable[DistillationFolder]) -> pl.DataFrame:
    """Every stored evaluation: EVALUATIONS columns."""
    rows = [_evaluation(one) for folder in folders for one in stored_versions(folder, [Kind.EVALUATIONS])]
    return pl.DataFrame(rows, schema=EVALUATIONS_SCHEMA, orient="row")


def releases_frame(folders: Iterable[DistillationFolder]) -> pl.DataFrame:
    """What is released: RELEASES columns; `content` is the whole file."""
    rows = [_release(folder, path.stem) for folder in folders for path in _release_files(folder)]
    return pl.DataFrame(rows, schema=RELEASES_SCHEMA, orient="row")


def dataset_inputs_frame(folders: Iterable[DistillationFolder]) -> pl.DataFrame:
    """What every stored dataset was made from, an input a row: DATASET_INPUTS columns."""
    rows = [
        (one.distillation, one.version, one.current, asset, partition or None, version)
        for folder in folders
        for one in stored_versions(folder, [Kind.DATASET])
        for name, version in read_manifest(one.path)["inputs"].items()
        for asset, _, partition in [name.partition("/")]
    ]
    return pl.DataFrame(rows, schema=DATASET_INPUTS_SCHEMA, orient="row")


def datasets_frame(folders: Iterable[DistillationFolder]) -> pl.DataFrame:
    """Every stored dataset, with the first build that made it: DATASETS columns."""
    rows = [
        (one.distillation, one.version, one.current, *(read_manifest(one.path)[name] for name in _MADE_BY))
        for folder in folders
        for one in stored_versions(folder, [Kind.DATASET])
    ]
    return pl.DataFrame(rows, schema=DATASETS_SCHEMA, orient="row")


def _student(one: StoredVersion) -> tuple[Any, ...]:
    manifest = read_manifest(one.path)
    inputs, details = manifest["inputs"], manifest["details"]
    return (
        one.distillation,
        one.name,
        one.version,
        one.current,
        details.get("objective"),
        details.get("targets"),
        inputs.get("dataset"),
        inputs.get("base"),
        details.get("teacher"),
        details.get("authorization"),
        manifest["counts"].get("rows_trained"),
        details.get("teacher_cost_microusd"),
        manifest["spec_hash"],
        manifest["code_version"],
        manifest["build_key"],
    )


def _evaluation(one: StoredVersion) -> tuple[Any, ...]:
    manifest = read_manifest(one.path)
    inputs = manifest["inputs"]
    return (
        one.distillation,
        one.name,
        one.version,
        one.current,
        inputs.get("student"),
        inputs.get("dataset"),
        inputs.get("base"),
        inputs.get("teacher"),
        manifest["counts"].get("test_rows"),
        manifest["spec_hash"],
        manifest["code_version"],
        manifest["build_key"],
        str(one.path),
    )


def _release_files(folder: DistillationFolder) -> list[Any]:
    return sorted(folder.asset("releases").glob("[!.]*.json"))


def _release(folder: DistillationFolder, name: str) -> tuple[Any, ...]:
    content: dict[str, Any] = read_json(folder.asset("releases") / f"{name}.json")
    student, evaluation = content.get("student_version"), content.get("evaluation_version")
    return folder.name, name, student, evaluation, json.dumps(content, ensure_ascii=False, sort_keys=True)
