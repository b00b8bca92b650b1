"""The `student/<name>` stage: trains in the worker, then publishes the checkpoint with its card and manifest."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_dagster.dataset.leakage import require_no_golden_rows
from distill_dagster.errors import LogitsError, StudentError
from distill_dagster.jobs import RESULT_FILE, LogitsInput, ModelRef, PrunedBase, TrainJob, TrainResult
from distill_dagster.lineage.builds import BuildRecord, Builds, build_key
from distill_dagster.lineage.manifests import Manifest, read_manifest, spec_hash, write_manifest
from distill_dagster.lineage.model_digest import digest_model
from distill_dagster.lineage.model_folder import find_model
from distill_dagster.logits.capturing import captured_seconds
from distill_dagster.logits.declared import capture_identity
from distill_dagster.logits.of_dataset import (
    captured_bytes_per_token,
    dataset_logits_version,
    dataset_places,
    logits_version_for,
    write_places,
)
from distill_dagster.logits.shards import shards_folder
from distill_dagster.project import Distillation
from distill_dagster.spec.students import StudentSpec
from distill_dagster.storage import Current, new_folder, read_current, write_current, write_json
from distill_dagster.students.card import model_card
from distill_dagster.students.cost import teacher_cost_microusd
from distill_dagster.teachers.store.leases import Leases
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.worker_process import Launch, run_job

STAGE_NUMBER = 2
# Where and how fast training runs; what it comes to is the same.
NOT_IDENTITY = frozenset({"base", "checkpoint_steps"})


@dataclass(frozen=True)
class StudentBuild:
    """An adopted student.

    Attributes:
        teacher_cost_microusd: what the teacher's answers behind its dataset did cost; None for a local teacher.
    """

    name: str
    version: str
    folder: Path
    base_folder: Path
    result: TrainResult
    changed: bool
    trained: bool
    teacher_cost_microusd: int | None = None


def asset_of(name: str) -> str:
    """The asset's folder under the distillation."""
    return f"students/{name}"


def student_build_key(distillation: Distillation, name: str) -> str | None:
    """The build key of a student; None while there is no dataset, or its rows' logits are not captured."""
    dataset = read_current(distillation.files.asset("dataset"))
    return None if dataset is None else student_key_for(distillation, name, dataset.version)


def student_key_for(
    distillation: Distillation, name: str, dataset_version: str, logits: Mapping[str, str] | None = None
) -> str | None:
    """The build key of a student on a version of the dataset; None while the logits of its rows are not captured.

    Args:
        logits: versions of the partitions' captured logits; default: the current ones.
    """
    spec = _spec(distillation, name)
    inputs = _inputs(distillation, spec, dataset_version, logits)
    if inputs is None:
        return None
    settings = {"student": f"{distillation.name}/{name}"} | student_settings(
        spec
    )  # weights lie under the student's name
    return build_key("student", STAGE_NUMBER, inputs, settings)


def student_current(distillation: Distillation, name: str) -> bool:
    """Whether the current student is the one the dataset and the declaration ask for."""
    current = read_current(distillation.files.asset(asset_of(name)))
    if current is None or not _folder(distillation, name, current.version).is_dir():
        return False  # said before the key is made, for which a base may have to be downloaded
    return current.build_key == student_build_key(distillation, name)


def read_student(distillation: Distillation, name: str) -> StudentBuild:
    """The current student.

    Raises:
        StudentError: it was never trained.
    """
    current = read_current(distillation.files.asset(asset_of(name)))
    if current is None:
        raise StudentError(
            f"{distillation.name}: student {name!r} is not trained yet; `distill run {distillation.name}`"
        )
    return published_student(distillation, name, current.version)


def published_student(distillation: Distillation, name: str, version: str) -> StudentBuild:
    """A version of a student, whether it is the current one or not."""
    return _published(distillation, name, version, changed=False, trained=False)


def build_student(
    distillation: Distillation, name: str, launch: Launch, waiting: Callable[[], None] | None = None
) -> StudentBuild:
    """Trains a student, or adopts the one that the same inputs came to before.

    Args:
        waiting: called when another process is training this very student; its result is then adopted.

    Raises:
        StudentError: no such student, no dataset yet, or nothing to train on.
        LogitsError: the student learns from captured logits, and some are missing.
        WorkerError: training failed; its checkpoints stay, and the next call resumes from them.
    """
    key = student_build_key(distillation, name)
    if key is None:
        raise _not_ready(distillation, name)
    builds = Builds(distillation.project.home)
    leases = Leases(ResponseStore(distillation.project.store_url).engine)
    with leases.hold(f"build/{key}", waiting):
        work = distillation.files.work("train", key)
        known = builds.find(key)
        if known is not None and _folder(distillation, name, known.version).is_dir():
            shutil.rmtree(work)  # of a run that was killed when it had published
            return _adopt(distillation, name, known, trained=False)
        record = builds.adopt(_train(distillation, name, key, work, launch), rebuild=known is not None)
        shutil.rmtree(work)  # only now: a crash before this resumes from it
        return _adopt(distillation, name, record, trained=True)


def _adopt(distillation: Distillation, name: str, record: BuildRecord, *, trained: bool) -> StudentBuild:
    changed = write_current(distillation.files.asset(asset_of(name)), Current(record.version, record.build_key))
    return _published(distillation, name, record.version, changed=changed, trained=trained)


def _train(distillation: Distillation, name: str, key: str, work: Path, launch: Launch) -> BuildRecord:
    spec = _spec(distillation, name)
    dataset = read_current(distillation.files.asset("dataset"))
    inputs = None if dataset is None else _inputs(distillation, spec, dataset.version)
    if dataset is None or inputs is None:
        raise _not_ready(distillation, name)
    require_no_golden_rows(distillation, dataset.version)
    job = _job(distillation, spec, distillation.files.asset("dataset") / dataset.version, work)
    cost_microusd = teacher_cost_microusd(distillation, job.dataset)  # before training: it needs files that may be gone
    run_job(job, launch)
    result = TrainResult.model_validate_json((work / RESULT_FILE).read_text(encoding="utf-8"))
    version = digest_model(work / "student").version
    base_digest = None
    if (work / "base").is_dir():
        base_digest = digest_model(work / "base").version
        _publish_base(distillation, work / "base", base_digest)
    manifest = Manifest(
        distillation=distillation.name,
        asset=f"student/{name}",
        version=version,
        build_key=key,
        inputs=inputs,
        spec_hash=spec_hash(distillation.spec),
        counts={
            "rows_trained": result.rows_trained,
            "rows_over_length": result.rows_over_length,
            "rows_without_target": result.rows_without_target,
        },
        details={
            "objective": spec.objective,
            "targets": spec.targets,
            "capture": _capture(distillation) if spec.objective == "logit" else None,
            "settings": student_settings(spec),
            "base": spec.base.model_dump(mode="json", exclude_none=True),
            "base_version": base_digest,
            "teacher": distillation.spec.teacher.model,
            "authorization": distillation.spec.teacher.authorization,
            "teacher_cost_microusd": cost_microusd,
            "result": result.model_dump(mode="json", exclude={"measurements"}),
        },
    )
    with new_folder(_folder(distillation, name, version)) as folder:
        shutil.copytree(work / "student", folder, dirs_exist_ok=True)
        write_json(folder / "measurements.json", result.measurements)
        (folder / "README.md").write_text(model_card(distillation, name, manifest, result), encoding="utf-8")
        write_manifest(folder, manifest)
    return BuildRecord(key, "student", version, inputs, {"rows_trained": result.rows_trained})


def _publish_base(distillation: Distillation, source: Path, version: str) -> None:
    with new_folder(_base_folder(distillation, version)) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def _published(distillation: Distillation, name: str, version: str, *, changed: bool, trained: bool) -> StudentBuild:
    folder = _folder(distillation, name, version)
    details: Mapping[str, Any] = read_manifest(folder)["details"]
    spec = _spec(distillation, name)
    base_version = details["base_version"]
    base = (
        _base_folder(distillation, base_version)
        if base_version
        else find_model(distillation, str(spec.base.model), spec.base.revision)
    )
    return StudentBuild(
        name=name,
        version=version,
        folder=folder,
        base_folder=base,
        result=TrainResult.model_validate({**details["result"], "measurements": {}}),
        changed=changed,
        trained=trained,
        teacher_cost_microusd=details.get("teacher_cost_microusd"),
    )


def _job(distillation: Distillation, spec: StudentSpec, dataset: Path, out: Path) -> TrainJob:
    teacher = distillation.spec.teacher
    return TrainJob(
        base=_base(distillation, spec),
        teacher=_teacher_ref(distillation, spec),
        dataset=dataset,
        logits=_logits(distillation, dataset, out) if spec.objective == "logit" else None,
        max_completion_tokens=teacher.max_tokens,
        out=out,
        **spec.model_dump(exclude={"base"}),
    )


def _teacher_ref(distillation: Distillation, spec: StudentSpec) -> ModelRef | None:
    """Where the teacher's tokenizer is, and for on_policy its weights; None where it is not known."""
    teacher = distillation.spec.teacher
    if teacher.is_local:
        return ModelRef(source=str(find_model(distillation, teacher.model)))
    if spec.objective == "logit" and distillation.spec.logits.tokenizer is not None:
        return ModelRef(source=str(find_model(distillation, distillation.spec.logits.tokenizer)))
    return None


def _logits(distillation: Distillation, dataset: Path, out: Path) -> LogitsInput:
    """What was captured for the dataset, listed in the job's folder."""
    identity = capture_identity(distillation)
    rows = out / "places.parquet"
    write_places(rows, dataset_places(distillation, dataset.name))
    return LogitsInput(identity=identity, rows=rows, shards=shards_folder(distillation.files.root, identity))


def _capture(distillation: Distillation) -> dict[str, Any]:
    """What the student's targets are, for its manifest."""
    identity = capture_identity(distillation)
    kept = identity.model_dump(mode="json", exclude_none=True)
    seconds = captured_seconds(distillation, identity)
    measured = {"bytes_per_token": captured_bytes_per_token(distillation), "seconds": seconds}
    return kept | measured


def _not_ready(distillation: Distillation, name: str) -> StudentError | LogitsError:
    if read_current(distillation.files.asset("dataset")) is None:
        return StudentError(f"{distillation.name}: there is no dataset to train {name!r} on; materialise it first")
    return LogitsError(
        f"{distillation.name}: student {name!r} learns from captured logits, and some are missing; "
        "materialise `teacher_logits` first, it captures what is missing"
    )


def _base(distillation: Distillation, spec: StudentSpec) -> ModelRef | PrunedBase:
    base = spec.base
    source = ModelRef(
        source=str(_base_source(distillation, spec)),
        trust_remote_code=base.trust_remote_code,
    )
    return PrunedBase(model=source, layers=base.layers) if base.layers is not None else source


def _base_source(distillation: Distillation, spec: StudentSpec) -> Path:
    name = spec.base.model or spec.base.prune or ""
    return find_model(distillation, distillation.spec.teacher.model if name == "teacher" else name, spec.base.revision)


def _inputs(
    distillation: Distillation, spec: StudentSpec, dataset_version: str, captured: Mapping[str, str] | None = None
) -> dict[str, str] | None:
    """Versions of all that a student follows from; None while logits are missing."""
    cache = distillation.project.home / "digests"
    inputs = {"dataset": dataset_version, "base": digest_model(_base_source(distillation, spec), cache).version}
    if spec.objective == "on_policy":
        teacher = find_model(distillation, distillation.spec.teacher.model)
        inputs["teacher"] = digest_model(teacher, cache).version
    if spec.objective == "logit":
        if captured is not None:
            logits: str | None = logits_version_for(distillation, dataset_version, captured)
        else:
            logits = dataset_logits_version(distillation, dataset_version)
        if logits is None:
            return None
        inputs["teacher_logits"] = logits
    return inputs


def student_settings(spec: StudentSpec) -> dict[str, Any]:
    """The settings that decide what training comes to."""
    settings = spec.model_dump(mode="json", exclude=set(NOT_IDENTITY))
    if spec.precision == "auto":
        del settings["precision"]
    settings["layers"] = spec.base.layers
    return settings


def _spec(distillation: Distillation, name: str) -> StudentSpec:
    students = distillation.spec.students
    if name not in students:
        known = ", ".join(students) or "none"
        raise StudentError(f"{distillation.name} declares no student {name!r} (known: {known})")
    return students[name]


def _folder(distillation: Distillation, name: str, version: str) -> Path:
    return distillation.files.asset(asset_of(name)) / version


def _base_folder(distillation: Distillation, version: str) -> Path:
    return distillation.files.asset("bases") / version
