"""What a gate is decided on: golden rows, what teacher, student and base say to them, and the look it takes."""

from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.declared_metrics import metric_sources
from distill_dagster.evaluation.inputs import GoldenInputs
from distill_dagster.evaluation.model import System
from distill_dagster.evaluation.prediction_files import (
    ANSWERED_COLUMNS,
    Wanted,
    missing,
    publish_finished,
    read_predictions,
)
from distill_dagster.evaluation.subjects import Subjects, longest_answer, subject_model
from distill_dagster.golden.answers import answering_identity, golden_answers
from distill_dagster.golden.build import golden_current, golden_version, read_golden_set
from distill_dagster.golden.looks import looked_at, take_look
from distill_dagster.jobs import PredictJob
from distill_dagster.lineage.hashing import frame_version
from distill_dagster.project import Distillation
from distill_dagster.spec.evaluation import GateSpec
from distill_dagster.spec.metrics import MetricSpec, metric_name
from distill_dagster.storage import write_file
from distill_dagster.teachers.asking.obtaining import Purse
from distill_dagster.teachers.store.leases import Leases
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.worker_process import Launch, run_job

PARTITION = "golden_set"


def golden_stored(distillation: Distillation) -> bool:
    """Whether there is a golden set to decide by; True where no gate is declared."""
    return distillation.spec.evaluation.gate is None or golden_version(distillation) is not None


def golden_versions(distillation: Distillation) -> dict[str, str]:
    """The golden set and the teacher that answers it, as inputs of an evaluation; empty where no gate is declared.

    Raises:
        EvaluationError: the golden set is not stored.
    """
    if distillation.spec.evaluation.gate is None:
        return {}
    return {"golden_set": _version(distillation), "golden_teacher": answering_identity(distillation)}


def require_current_golden(distillation: Distillation) -> None:
    """Makes sure that a gate is decided on what the golden set's source has now.

    Raises:
        EvaluationError: it would not be.
    """
    if distillation.spec.evaluation.gate is not None and not golden_current(distillation):
        raise EvaluationError(
            f"{distillation.name}: the golden set is not what its source has now, so the gate cannot be decided; "
            "materialise `golden_set` first"
        )


def gate_candidates(distillation: Distillation) -> list[str]:
    """Students among whom the gate's alpha is split: the declared ones, and all who were ever looked at.

    A student that is no longer declared still counts, for else the best of many would be chosen at the price of one.
    """
    gate = distillation.spec.evaluation.gate
    if gate is None:
        return []
    declared = gate.candidates or distillation.spec.students
    return sorted({*declared, *looked_at(distillation, _version(distillation))})


def golden_inputs(
    distillation: Distillation, subjects: Subjects, work: Path, launch: Launch, purse: Purse
) -> GoldenInputs | None:
    """Asks teacher, student and base, and takes a look; what is stored is not asked again.

    None where no gate is declared, or the student is not among its candidates.

    Raises:
        DistillError: the teacher could not be asked, or the worker failed.
    """
    gate, student = distillation.spec.evaluation.gate, subjects.student
    if gate is None or student.name not in (gate.candidates or distillation.spec.students):
        return None
    version = _version(distillation)
    golden = read_golden_set(distillation, version)
    verified = golden.filter("verified")
    answers = golden_answers(distillation, verified, launch, purse)
    rows = _as_test_rows(verified.join(answers, on="prompt_id", how="left", maintain_order="left"))
    wanted = _wanted(distillation, subjects, rows)
    publish_finished(distillation, wanted, work)
    absent = missing(distillation, wanted)
    if absent:
        _predict(distillation, absent, rows, work, launch)
    predicted = read_predictions(distillation, wanted)
    leases = Leases(ResponseStore(distillation.project.store_url).engine)
    with leases.hold(f"looks/{distillation.name}"):
        look = take_look(distillation, student.name, student.version, version, _rule(distillation, gate))
    return GoldenInputs(rows, predicted.generated, len(golden) - len(verified), look)


def _version(distillation: Distillation) -> str:
    version = golden_version(distillation)
    if version is None:
        raise EvaluationError(f"{distillation.name}: the golden set is not read yet; materialise `golden_set` first")
    return version


def _rule(distillation: Distillation, gate: GateSpec) -> dict[str, Any]:
    """What decides a verdict beside student and golden set; how many candidates share alpha is counted apart."""
    spec = distillation.spec
    entry = next(one for one in spec.evaluation.metrics if metric_name(one) == gate.metric)
    sources = metric_sources(
        spec, distillation.folder, distillation.project.root, distillation.project.home / "digests"
    )
    return {
        "gate": gate.model_dump(mode="json", exclude={"candidates"}),
        "metric": entry if isinstance(entry, str) else entry.model_dump(mode="json", exclude=_unset(entry)),
        "metric_source": sources.get(gate.metric),
        "max_tokens": longest_answer(distillation),
        "teacher": answering_identity(distillation),
    }


def _unset(entry: MetricSpec) -> set[str]:
    """Keys that came after the first looks were counted, where they say nothing: a rule keeps its number."""
    return {name for name in ("embedding_similarity", "revision") if getattr(entry, name) is None}


def _as_test_rows(golden: pl.DataFrame) -> pl.DataFrame:
    return golden.select(
        "prompt_id",
        "group_id",
        "text",
        "reference",
        "completion",
        "slice",
        sample=pl.lit(0, dtype=pl.Int32),
        partition=pl.lit(PARTITION),
        messages=pl.col("student_messages"),
        teacher_messages=pl.col("messages"),
        completion_ids=pl.lit(None, dtype=pl.List(pl.Int32)),
    )


def _wanted(distillation: Distillation, subjects: Subjects, rows: pl.DataFrame) -> list[Wanted]:
    inputs = {"rows": frame_version(rows, ANSWERED_COLUMNS)}
    settings = {"max_tokens": longest_answer(distillation)}
    student = subjects.student
    models = [
        (System.STUDENT, f"student {student.name}, golden set", student.version, student.folder),
        (System.BASE, f"base of {student.name}, golden set", subjects.base, student.base_folder),
    ]
    return [
        Wanted.of(system, subject_model(label, folder), inputs | {"model": version}, settings)
        for system, label, version, folder in models
    ]


def _predict(distillation: Distillation, absent: list[Wanted], rows: pl.DataFrame, work: Path, launch: Launch) -> None:
    path = work / "golden_rows.parquet"
    write_file(path, lambda aside: rows.write_parquet(aside))
    job = PredictJob(
        predictions=[one.prediction for one in absent],
        teacher=None,
        rows=path,
        train_rows=path,
        max_tokens=longest_answer(distillation),
        batch_size=distillation.spec.evaluation.batch_size,
        read_answers=False,
        out=work,
    )
    run_job(job, launch, on_poll=lambda: publish_finished(distillation, absent, work))
