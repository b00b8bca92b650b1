"""Overrides of the gate: one file for one version of a student and one evaluation of it, and for no other."""

import getpass
import os
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from distill_dagster.errors import EvaluationError, StorageError
from distill_dagster.project import Distillation
from distill_dagster.releases.candidate import Candidate
from distill_dagster.releases.model import Override
from distill_dagster.storage import read_json, write_json

RELEASES = "releases"


def find_override(distillation: Distillation, candidate: Candidate) -> Override | None:
    """The override of exactly this version's verdict in this evaluation, if there is one.

    Raises:
        StorageError: its file cannot be read.
    """
    path = _path(distillation, candidate)
    if not path.exists():
        return None
    try:
        override = Override.model_validate(read_json(path))
    except ValidationError:
        raise StorageError(f"{path}: not an override; remove it and override again") from None
    meant = (override.student, override.student_version, override.evaluation_version)
    return override if meant == (candidate.student, candidate.version, candidate.evaluation_version) else None


def record_override(distillation: Distillation, candidate: Candidate, reason: str) -> Override:
    """Writes down that a verdict other than pass is overridden, by whom and why; an earlier override is replaced.

    Raises:
        EvaluationError: no reason is given, or the verdict is a pass.
    """
    if not reason.strip():
        raise EvaluationError("--override: write why the verdict is overridden")
    if candidate.passed:
        raise EvaluationError(f"{distillation.name}/{candidate.student} passed its gate: nothing to override")
    override = Override(
        student=candidate.student,
        student_version=candidate.version,
        evaluation_version=candidate.evaluation_version,
        verdict=candidate.status,
        statement=candidate.verdict.statement,
        reason=reason.strip(),
        by=_user(),
        at=datetime.now(UTC),
    )
    write_json(_path(distillation, candidate), override.model_dump(mode="json"))
    return override


def _path(distillation: Distillation, candidate: Candidate) -> Path:
    name = f"{candidate.version}-{candidate.evaluation_version}.json"
    return distillation.files.asset(RELEASES) / "overrides" / name


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"
