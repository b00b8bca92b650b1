"""The `release/<student>` stage: points `releases/<student>.json` at the version that the gate let pass."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from distill_dagster.errors import ReleaseWithheldError, StorageError
from distill_dagster.evaluation.write import REPORT_HTML_FILE
from distill_dagster.lineage.manifests import altered_files, read_manifest
from distill_dagster.lineage.model_digest import digest_model
from distill_dagster.project import Distillation
from distill_dagster.releases.admission import Admission, admit
from distill_dagster.releases.model import Release, Taught
from distill_dagster.releases.overrides import RELEASES
from distill_dagster.storage import read_json, write_json


@dataclass(frozen=True)
class ReleaseBuild:
    """A released student.

    Attributes:
        release: what its pointer says.
        path: the pointer.
        folder: the checkpoint.
        report_path: the page it was judged by.
        changed: whether the pointer says something else than before.
    """

    release: Release
    path: Path
    folder: Path
    report_path: Path
    changed: bool


def build_release(distillation: Distillation, student: str) -> ReleaseBuild:
    """Releases the current version of a student; what was released before stays so if this fails.

    Raises:
        EvaluationError: nothing guards a release of this student.
        ReleaseWithheldError: there is no verdict on this version, or one that is no pass and not overridden.
        StorageError: the checkpoint or its evaluation is not as it was published.
    """
    admission = admit(distillation, student)
    _verify(admission.candidate.folder)
    release = _describe(distillation, admission)
    known = read_release(distillation, student)
    changed = known is None or known.version != release.version
    path = release_path(distillation, student)
    if changed:
        write_json(path, release.model_dump(mode="json"))
    return ReleaseBuild(
        release=release if known is None or changed else known,
        path=path,
        folder=admission.candidate.folder,
        report_path=distillation.files.root / release.report,
        changed=changed,
    )


def release_due(distillation: Distillation, student: str) -> bool:
    """Whether releasing now would change the pointer; False while the release is withheld.

    Raises:
        StorageError: pointer, evaluation or override is damaged.
    """
    try:
        admission = admit(distillation, student)
    except ReleaseWithheldError:
        return False
    known = read_release(distillation, student)
    return known is None or known.version != _describe(distillation, admission).version


def read_release(distillation: Distillation, student: str) -> Release | None:
    """What is released of a student, if anything is.

    Raises:
        StorageError: the pointer is damaged.
    """
    path = release_path(distillation, student)
    if not path.exists():
        return None
    try:
        return Release.model_validate(read_json(path))
    except ValidationError:
        raise StorageError(f"{path}: not a release; remove it and materialise the release again") from None


def release_path(distillation: Distillation, student: str) -> Path:
    """The pointer, whether it is there or not."""
    return distillation.files.asset(RELEASES) / f"{student}.json"


def _verify(folder: Path) -> None:
    """Compares a checkpoint with its manifest, file by file, and with the version it is called by."""
    altered = altered_files(folder)
    if not altered and digest_model(folder).version != folder.name:
        altered = ["its weights"]
    if altered:
        raise StorageError(
            f"{folder}: not released, for it is not as it was published ({', '.join(altered)}); remove the folder and "
            "materialise the student again"
        )


def _describe(distillation: Distillation, admission: Admission) -> Release:
    candidate = admission.candidate
    manifest = read_manifest(candidate.folder)
    root = distillation.files.root
    release = Release(
        distillation=distillation.name,
        student=candidate.student,
        version="",
        student_version=candidate.version,
        folder=str(candidate.folder.relative_to(root)),
        files=manifest["files"],
        evaluation_version=candidate.evaluation_version,
        report=str((candidate.report_folder / REPORT_HTML_FILE).relative_to(root)),
        golden_set_version=candidate.verdict.golden_set,
        dataset_version=candidate.evaluated.dataset,
        teacher=Taught(
            model=manifest["details"]["teacher"],
            version=candidate.evaluated.teacher,
            authorization=manifest["details"]["authorization"],
        ),
        verdict=candidate.verdict,
        override=admission.override,
        released_at=datetime.now(UTC),
    )
    return release.model_copy(update={"version": release.content_version()})
