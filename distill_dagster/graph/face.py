"""What every asset shows of itself in Dagster before it is ever made: description, owners, kinds, tags, its lines."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import dagster as dg

from distill_dagster.graph import descriptions as of
from distill_dagster.graph.columns import column_schema
from distill_dagster.graph.keys import CODE_VERSION
from distill_dagster.project import Distillation
from distill_dagster.releases.build import release_path
from distill_dagster.spec.loading import key_line

STAGE_TAG, STUDENT_TAG, OBJECTIVE_TAG, TEACHER_TAG = (
    f"distill/{name}" for name in ("stage", "student", "objective", "teacher")
)
_TAG_CHARS = 63


class Face(TypedDict):
    """Arguments that `dagster.asset` and `dagster.AssetSpec` have in common."""

    group_name: str
    owners: Sequence[str]
    tags: Mapping[str, str]
    kinds: set[str]
    description: str
    metadata: Mapping[str, Any]
    code_version: str


class _Stage(NamedTuple):
    """How a kind of asset looks.

    Attributes:
        kinds: at most three, for Dagster shows no more; `student`, `evaluation` and `release` are among theirs since
            the graph writes only a key's last part.
        keys: of the declaration, those that decide the asset; the first that is written is where its code is.
    """

    describe: Callable[..., str]
    kinds: Callable[[Distillation], set[str]]
    keys: Sequence[tuple[str, ...]]


def face(
    distillation: Distillation, stage: str, student: str | None = None, columns: Mapping[str, object] | None = None
) -> Face:
    """The face of one asset.

    Args:
        stage: `prompts`, `teacher_outputs`, …, `student`, `evaluation`, `release`.
        student: for the last three, whose.
        columns: for tables, column → Polars type.
    """
    look = _STAGES[stage]
    described = look.describe(distillation, student) if student is not None else look.describe(distillation)
    metadata: dict[str, Any] = {
        "dagster/code_references": _code_references(distillation, look.keys, student),
        "dagster/uri": _folder(distillation, stage, student).as_uri(),
    }
    if columns is not None:
        metadata["dagster/column_schema"] = column_schema(stage, columns)
    return {
        "group_name": distillation.name,
        "owners": list(distillation.spec.owners),
        "tags": _tags(distillation, stage, student),
        "kinds": look.kinds(distillation),
        "description": described,
        "metadata": metadata,
        "code_version": CODE_VERSION,
    }


def _folder(distillation: Distillation, stage: str, student: str | None) -> Path:
    """Where an asset's versions lie."""
    if student is None:
        return distillation.files.asset(stage)
    return (
        release_path(distillation, student) if stage == "release" else distillation.files.asset(f"{stage}s/{student}")
    )


def _tags(distillation: Distillation, stage: str, student: str | None) -> dict[str, str]:
    tags = {STAGE_TAG: stage}
    if student is not None:
        tags |= {STUDENT_TAG: student, OBJECTIVE_TAG: distillation.spec.students[student].objective}
    else:
        tags[TEACHER_TAG] = distillation.spec.teacher.model
    return {key: re.sub(r"[^A-Za-z0-9_.-]", "_", value)[:_TAG_CHARS] for key, value in tags.items()}


def _code_references(
    distillation: Distillation, keys: Sequence[tuple[str, ...]], student: str | None
) -> dg.MetadataValue:
    """The line of the declaration that decides an asset, and for a Python source the function's file."""
    path = distillation.folder / "defs.yaml"
    named = [tuple(part.replace("*", student or "") for part in key) for key in keys]
    places = [(path, key_line(path, named))]
    source = distillation.spec.prompts.source if ("prompts",) in keys else None
    if "golden_set" in keys[0]:
        source = distillation.spec.golden_set
    if source is not None and source.python is not None:
        module = distillation.folder / f"{source.python.rpartition('.')[0].replace('.', '/')}.py"
        places.append((module, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.CodeReferencesMetadataValue(
            code_references=[dg.LocalFileCodeReference(file_path=str(file), line_number=line) for file, line in places]
        )


def _teacher_kind(distillation: Distillation) -> str:
    provider = distillation.spec.teacher.provider
    return "huggingface" if provider == "transformers" else provider


def _golden_kind(distillation: Distillation) -> str:
    golden = distillation.spec.golden_set
    return golden.kind if golden is not None else "polars"


_STAGES: Mapping[str, _Stage] = {
    "prompts": _Stage(of.describe_prompts, lambda one: {"parquet", one.spec.prompts.source.kind}, [("prompts",)]),
    "teacher_outputs": _Stage(of.describe_outputs, lambda one: {"parquet", _teacher_kind(one)}, [("teacher",)]),
    "teacher_logits": _Stage(
        of.describe_logits, lambda one: {"parquet", _teacher_kind(one)}, [("logits",), ("teacher",)]
    ),
    "dataset": _Stage(of.describe_dataset, lambda one: {"parquet", "polars"}, [("curation",), ("prompts", "split")]),
    "golden_set": _Stage(of.describe_golden_set, lambda one: {"parquet", _golden_kind(one)}, [("golden_set",)]),
    "student": _Stage(
        of.describe_student, lambda one: {"student", "pytorch", "huggingface"}, [("students", "*"), ("students",)]
    ),
    "evaluation": _Stage(of.describe_evaluation, lambda one: {"evaluation", "html"}, [("evaluation",)]),
    "release": _Stage(of.describe_release, lambda one: {"release", "json"}, [("evaluation", "gate")]),
}
