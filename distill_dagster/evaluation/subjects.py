"""Which models an evaluation measures, each by version, and what of them has to be predicted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.evaluation.model import System, companion
from distill_dagster.evaluation.prediction_files import READ_COLUMNS, Wanted
from distill_dagster.jobs import ModelRef, PredictModel
from distill_dagster.lineage.hashing import frame_version
from distill_dagster.lineage.model_digest import digest_model
from distill_dagster.lineage.model_folder import find_model, saved_dtype
from distill_dagster.project import Distillation
from distill_dagster.storage import read_current
from distill_dagster.students.build import StudentBuild, published_student, student_current
from distill_dagster.students.build import asset_of as student_asset


@dataclass(frozen=True)
class Subjects:
    """The models of one student's evaluation.

    Attributes:
        student: whose report it is.
        companions: the distillation's other current students by name, so trained on the same dataset, as declared.
        dataset: its version.
        base: digest of the student's base.
        teacher: digest of a local teacher; None for a hosted one.
        teacher_folder: its weights, likewise.
    """

    student: StudentBuild
    companions: Mapping[str, StudentBuild]
    dataset: str
    base: str
    teacher: str | None
    teacher_folder: Path | None

    @property
    def versions(self) -> dict[str, str]:
        """Everything by name, as an evaluation's inputs."""
        versions = {"student": self.student.version, "dataset": self.dataset, "base": self.base}
        versions |= {companion(name): build.version for name, build in self.companions.items()}
        return versions | ({"teacher": self.teacher} if self.teacher else {})


def find_subjects(distillation: Distillation, student: str) -> Subjects | None:
    """The models to measure now, on the current dataset; None while the student is not the one trained on it."""
    dataset = read_current(distillation.files.asset("dataset"))
    if dataset is None or not student_current(distillation, student):
        return None
    versions = {
        name: current.version
        for name in distillation.spec.students
        if (current := read_current(distillation.files.asset(student_asset(name)))) is not None
        and (name == student or student_current(distillation, name))
    }
    return subjects_of(distillation, student, dataset.version, versions)


def subjects_of(distillation: Distillation, student: str, dataset: str, versions: Mapping[str, str]) -> Subjects:
    """The models of an evaluation on a version of the dataset.

    Args:
        versions: of the students that are trained on it, by name; `student` is among them.
    """
    trained = published_student(distillation, student, versions[student])
    cache = distillation.project.home / "digests"
    teacher = distillation.spec.teacher
    folder = find_model(distillation, teacher.model) if teacher.is_local else None
    return Subjects(
        student=trained,
        companions={
            other: published_student(distillation, other, versions[other])
            for other in distillation.spec.students
            if other != student and other in versions
        },
        dataset=dataset,  # the student's manifest names the first one that came to its weights
        base=digest_model(trained.base_folder, cache).version,
        teacher=digest_model(folder, cache).version if folder else None,
        teacher_folder=folder,
    )


def wanted_predictions(
    distillation: Distillation, subjects: Subjects, asked: pl.DataFrame, train: pl.DataFrame
) -> list[Wanted]:
    """What an evaluation needs of each of its models.

    Args:
        asked: the test rows as the worker reads them (DATASET columns and teacher_messages).
        train: the training rows; the count baselines hang on their completion_ids.
    """
    rows = {"rows": frame_version(asked, READ_COLUMNS)}
    settings: dict[str, Any] = {"max_tokens": longest_answer(distillation)}
    compared, read_as = rows, settings  # of models that are compared with a local teacher
    if subjects.teacher is not None:
        compared = rows | {"teacher": subjects.teacher}
        read_as = settings | {"teacher_dtype": distillation.spec.teacher.dtype}

    def learner(system: str, label: str, version: str, folder: Path, student: str) -> Wanted:
        limit = distillation.spec.students[student].max_length
        model = subject_model(label, folder)
        return Wanted.of(system, model, compared | {"model": version}, read_as, limit)

    own = subjects.student
    wanted = [
        learner(System.STUDENT, f"student {own.name}", own.version, own.folder, own.name),
        *(
            learner(companion(name), f"student {name}", build.version, build.folder, name)
            for name, build in subjects.companions.items()
        ),
        learner(System.BASE, f"base of {own.name}", subjects.base, own.base_folder, own.name),
    ]
    if (teacher := teacher_model(distillation, subjects)) is not None:
        counted = {"train": frame_version(train, ["completion_ids"])}
        wanted.append(Wanted.of(System.TEACHER, teacher, compared | counted, settings))
    return wanted


def teacher_model(distillation: Distillation, subjects: Subjects) -> PredictModel | None:
    """The local teacher, which is timed and compared with; None for a hosted one."""
    if subjects.teacher_folder is None:
        return None
    source = ModelRef(source=str(subjects.teacher_folder))
    return PredictModel(name="teacher", model=source, dtype=distillation.spec.teacher.dtype, generate=False)


def longest_answer(distillation: Distillation) -> int:
    """Most tokens of an answer."""
    return distillation.spec.evaluation.max_tokens or distillation.spec.teacher.max_tokens


def decoding(distillation: Distillation) -> dict[str, Any]:
    """How answers are decoded and compared, as it decides an evaluation."""
    teacher = distillation.spec.teacher
    return {
        "max_tokens": longest_answer(distillation),
        "teacher_dtype": teacher.dtype if teacher.is_local else None,
    }


def subject_model(label: str, folder: Path) -> PredictModel:
    return PredictModel(name=label, model=ModelRef(source=str(folder)), dtype=saved_dtype(folder), generate=True)
