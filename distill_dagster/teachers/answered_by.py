"""Remembers the fields behind a teacher's digest, so that a plan can name those that changed."""

from pathlib import Path
from typing import Any

from distill_dagster.project import Distillation
from distill_dagster.storage import read_json, write_json
from distill_dagster.teachers.protocol import TeacherIdentity


def teacher_fields(identity: TeacherIdentity) -> dict[str, Any]:
    """All that affects an answer, by the names of the `teacher:` block where they have one there."""
    return {"provider": identity.provider, "model": identity.model, **identity.parameters}


def write_teacher(distillation: Distillation, identity: TeacherIdentity) -> None:
    """Writes a teacher's fields down, once."""
    path = _file(distillation, identity.digest)
    if not path.exists():
        write_json(path, teacher_fields(identity))


def read_teacher(distillation: Distillation, digest: str) -> dict[str, Any] | None:
    """The fields behind a digest; None where they were never written."""
    path = _file(distillation, digest)
    return dict(read_json(path)) if path.is_file() else None


def _file(distillation: Distillation, digest: str) -> Path:
    return distillation.files.asset("teacher_outputs") / ".teachers" / f"{digest[:32]}.json"
