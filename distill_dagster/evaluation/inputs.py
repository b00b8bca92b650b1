"""What an evaluation is made from: the declaration, the test rows, what each model did on them, how it was trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from distill_dagster.evaluation.declared_metrics import Similarities
from distill_dagster.evaluation.harness_table import HarnessTable
from distill_dagster.evaluation.judged import Judged
from distill_dagster.evaluation.model import ModelNames, Versions
from distill_dagster.golden.looks import Look
from distill_dagster.jobs import ModelResult, TrainResult
from distill_dagster.spec.distillation import DistillationSpec


@dataclass(frozen=True)
class CaptureCost:
    """What capturing the teacher's distributions took, for a student that learnt from them."""

    bytes_per_token: float | None
    seconds: float | None


@dataclass(frozen=True)
class TrainedStudent:
    """A trained student.

    Attributes:
        name, version: which.
        objective, targets: what it was trained on.
        origin: what it started from, in words.
        training: what the worker said of its training, timings included.
        capture: None where it learnt from texts alone.
    """

    name: str
    version: str
    objective: str
    targets: str
    origin: str
    training: TrainResult
    capture: CaptureCost | None = None


@dataclass(frozen=True)
class HeldOutInputs:
    """What the same models did on the partitions that are held out.

    Attributes:
        rows: the dataset's held-out split (DATASET columns).
        generated, fidelity: as for the test split.
    """

    rows: pl.DataFrame
    generated: pl.DataFrame
    fidelity: pl.DataFrame | None


@dataclass(frozen=True)
class GoldenInputs:
    """What a gate is decided on.

    Attributes:
        rows: DATASET columns of the verified golden rows, `slice` beside them; completion is the teacher's answer, null
            where it refused or failed.
        generated: answers of student and base (GENERATED columns and `model`).
        unverified: golden rows that no person has checked, left out.
        look: which look at these rows it is.
    """

    rows: pl.DataFrame
    generated: pl.DataFrame
    unverified: int
    look: Look


@dataclass(frozen=True)
class EvaluationInputs:
    """All that an evaluation is made from.

    Attributes:
        distillation: its name in the project.
        student: whose report it is.
        companions: the distillation's other students, shown beside it.
        spec: the declaration; `spec.students[student.name]` says how the student was trained.
        spec_hash: hash of the declaration.
        versions, models: what was evaluated.
        rows_per_split: rows of the dataset in each split.
        test: the dataset's test split (DATASET columns).
        dropped: rows that curation kept out, of all splits (DROPPED columns).
        generated: answers of students and base on the test split (GENERATED columns and `model`), and the teacher's
            second ones where it was asked again.
        fidelity: teacher-forced agreement on the test split (FIDELITY columns and `model`); None if none.
        results: what the worker said of each model, by system.
        teacher_layers: layers of the model a pruned base was cut from, where known.
        folder, project_root: where files that metrics name are looked up; None where no metric names one.
        similarities: of the texts that are scored, by the name of an embedding metric.
        held_out: None where no partition is held out.
        golden: None where no gate is declared, or this student is no candidate.
        candidates: names of the students among whom the gate's alpha is split.
        judged: what a judge said; None where none is declared.
        harness: what lm-evaluation-harness said; None where no task is declared.
        teacher_usd_per_1000_answers: what the provider charged, from its usage; None for a teacher on this machine.
    """

    distillation: str
    student: TrainedStudent
    companions: tuple[TrainedStudent, ...]
    spec: DistillationSpec
    spec_hash: str
    versions: Versions
    models: ModelNames
    rows_per_split: dict[str, int]
    test: pl.DataFrame
    dropped: pl.DataFrame
    generated: pl.DataFrame
    fidelity: pl.DataFrame | None
    results: Mapping[str, ModelResult]
    teacher_layers: int | None = None
    teacher_usd_per_1000_answers: float | None = None
    held_out: HeldOutInputs | None = None
    golden: GoldenInputs | None = None
    candidates: tuple[str, ...] = ()
    judged: Judged | None = None
    harness: HarnessTable | None = None
    folder: Path | None = None
    project_root: Path | None = None
    similarities: Mapping[str, Similarities] = field(default_factory=dict)
