"""The `evaluation/<name>` stage: predicts in the worker, measures here, publishes the report."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from distill_dagster.dataset.build import dropped_rows
from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.metadata import metric_plot_markdown, summary_markdown
from distill_dagster.evaluation.model import ANSWERING, EvaluationInputs, EvaluationReport, ModelNames, Versions
from distill_dagster.evaluation.write import (
    PREDICTIONS_FILE,
    REPORT_HTML_FILE,
    REPORT_JSON_FILE,
    evaluation_version,
    write_evaluation,
)
from distill_dagster.jobs import RESULT_FILE, ModelRef, PredictJob, PredictModel, PredictResult
from distill_dagster.lineage.builds import BuildRecord, Builds, build_key
from distill_dagster.lineage.manifests import Manifest, read_manifest, spec_hash, write_manifest
from distill_dagster.lineage.model_digest import digest_model
from distill_dagster.lineage.model_folder import find_model, saved_dtype
from distill_dagster.project import Distillation
from distill_dagster.prompts.store import read_prompts
from distill_dagster.storage import Current, new_folder, read_current, read_json, write_current, write_file
from distill_dagster.students.build import StudentBuild, read_student, student_current
from distill_dagster.teachers.outputs import read_outputs
from distill_dagster.teachers.store.budget import MICRO
from distill_dagster.teachers.store.leases import Leases
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.worker_process import Launch, run_job

STAGE_NUMBER = 1


@dataclass(frozen=True)
class EvaluationBuild:
    """An adopted evaluation."""

    student: str
    version: str
    folder: Path
    changed: bool
    evaluated: bool

    def report(self) -> EvaluationReport:
        """Its numbers."""
        return EvaluationReport.model_validate_json((self.folder / REPORT_JSON_FILE).read_text(encoding="utf-8"))

    @property
    def report_path(self) -> Path:
        """Its page."""
        return self.folder / REPORT_HTML_FILE

    def markdown(self) -> str:
        """Headlines, table and picture for Dagster."""
        report = self.report()
        return f"{summary_markdown(report)}\n{metric_plot_markdown(report)}"

    def side_by_side(self) -> pl.DataFrame:
        """Prompt, teacher's, student's and base's answer of each test row."""
        rows = pl.read_parquet(self.folder / PREDICTIONS_FILE, columns=["text", "model", "prediction"])
        answers = rows.filter(pl.col("model").is_in(list(map(str, ANSWERING))))
        return answers.pivot("model", index="text", values="prediction").select("text", *map(str, ANSWERING))


def asset_of(student: str) -> str:
    """The asset's folder under the distillation."""
    return f"evaluations/{student}"


def evaluation_build_key(distillation: Distillation, student: str) -> str | None:
    """The build key of an evaluation; None while its student is not the current one."""
    if not student_current(distillation, student):
        return None
    settings = distillation.spec.evaluation.model_dump(mode="json", exclude={"batch_size"})
    settings["student"] = f"{distillation.name}/{student}"
    return build_key("evaluation", STAGE_NUMBER, _inputs(distillation, student), settings | _decoding(distillation))


def evaluation_current(distillation: Distillation, student: str) -> bool:
    """Whether the current evaluation is that of the current student."""
    current = read_current(distillation.files.asset(asset_of(student)))
    if current is None or not _folder(distillation, student, current.version).is_dir():
        return False
    return current.build_key == evaluation_build_key(distillation, student)


def read_evaluation(distillation: Distillation, student: str) -> EvaluationBuild | None:
    """The current evaluation of a student, if there is one."""
    current = read_current(distillation.files.asset(asset_of(student)))
    if current is None:
        return None
    folder = _folder(distillation, student, current.version)
    return EvaluationBuild(student, current.version, folder, changed=False, evaluated=False)


def build_evaluation(distillation: Distillation, student: str, launch: Launch) -> EvaluationBuild:
    """Evaluates the current student, or adopts the evaluation that the same inputs came to before.

    Raises:
        EvaluationError: the student is missing or older than its dataset, or the test split is empty.
    """
    key = evaluation_build_key(distillation, student)
    if key is None:
        raise EvaluationError(
            f"{distillation.name}: student {student!r} is not trained on the current dataset; materialise it first"
        )
    builds = Builds(distillation.project.home)
    leases = Leases(ResponseStore(distillation.project.store_url).engine)
    with leases.hold(f"build/{key}"):
        known = builds.find(key)
        if known is not None and _folder(distillation, student, known.version).is_dir():
            return _adopt(distillation, student, known, evaluated=False)
        work = distillation.files.work("predict", key)
        record = builds.adopt(_evaluate(distillation, student, key, work, launch), rebuild=known is not None)
        shutil.rmtree(work)
        return _adopt(distillation, student, record, evaluated=True)


def _adopt(distillation: Distillation, student: str, record: BuildRecord, *, evaluated: bool) -> EvaluationBuild:
    changed = write_current(distillation.files.asset(asset_of(student)), Current(record.version, record.build_key))
    folder = _folder(distillation, student, record.version)
    return EvaluationBuild(student, record.version, folder, changed=changed, evaluated=evaluated)


def _evaluate(distillation: Distillation, student: str, key: str, work: Path, launch: Launch) -> BuildRecord:
    trained = read_student(distillation, student)
    inputs = _inputs(distillation, student)
    dataset = distillation.files.asset("dataset") / inputs["dataset"]
    test = pl.read_parquet(dataset / "test.parquet")
    if test.is_empty():
        raise EvaluationError(
            f"{distillation.name}: no rows in the test split, so nothing can be measured; raise prompts.split.test"
        )
    rows = work / "rows.parquet"
    asked = test.join(_teacher_messages(distillation, dataset, test), on="prompt_id", how="left")
    write_file(rows, lambda aside: asked.write_parquet(aside))
    run_job(_job(distillation, trained, dataset, rows, work), launch)
    evaluation = _evaluation_inputs(distillation, trained, inputs, test, work)
    aside = work / "report"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    report = write_evaluation(aside, evaluation)
    version = evaluation_version(aside)
    with new_folder(_folder(distillation, student, version)) as folder:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        manifest = Manifest(
            distillation=distillation.name,
            asset=f"evaluation/{student}",
            version=version,
            build_key=key,
            inputs=inputs,
            spec_hash=evaluation.spec_hash,
            counts={"test_rows": len(test)},
            details={"metrics": list(distillation.spec.evaluation.metrics), "headlines": report.headlines},
        )
        write_manifest(folder, manifest)
    return BuildRecord(key, "evaluation", version, inputs, {"test_rows": len(test)})


def _teacher_messages(distillation: Distillation, dataset: Path, test: pl.DataFrame) -> pl.DataFrame:
    """prompt_id and teacher_messages of the test rows, from the very prompts that the dataset was built from."""
    inputs: dict[str, str] = read_manifest(dataset)["inputs"]
    frames = [
        read_prompts(distillation, name.removeprefix("prompts/"), version)
        .select("prompt_id", teacher_messages="messages")
        .join(test.select("prompt_id"), on="prompt_id", how="semi")
        for name, version in inputs.items()
        if name.startswith("prompts/")
    ]
    return pl.concat(frames)


def _job(distillation: Distillation, trained: StudentBuild, dataset: Path, rows: Path, out: Path) -> PredictJob:
    spec = distillation.spec
    models = [
        PredictModel(name="student", model=_ref(trained.folder), dtype=saved_dtype(trained.folder), generate=True),
        PredictModel(
            name="base", model=_ref(trained.base_folder), dtype=saved_dtype(trained.base_folder), generate=True
        ),
    ]
    if spec.teacher.is_local:
        teacher = find_model(distillation, spec.teacher.model)
        models.append(PredictModel(name="teacher", model=_ref(teacher), dtype=spec.teacher.dtype, generate=False))
    return PredictJob(
        models=models,
        teacher_is_local=spec.teacher.is_local,
        rows=rows,
        train_rows=dataset / "train.parquet",
        max_tokens=spec.evaluation.max_tokens or spec.teacher.max_tokens,
        batch_size=spec.evaluation.batch_size,
        max_length=spec.students[trained.name].max_length,
        out=out,
    )


def _evaluation_inputs(
    distillation: Distillation, trained: StudentBuild, inputs: dict[str, str], test: pl.DataFrame, work: Path
) -> EvaluationInputs:
    spec = distillation.spec
    dataset_folder = distillation.files.asset("dataset") / inputs["dataset"]
    fidelity = work / "fidelity.parquet"
    training = trained.result.model_copy(
        update={"measurements": read_json(trained.folder / "measurements.json")},
    )
    base = spec.students[trained.name].base
    return EvaluationInputs(
        distillation=distillation.name,
        student=trained.name,
        spec=spec,
        spec_hash=spec_hash(spec),
        versions=Versions(dataset=inputs["dataset"], student=trained.version, teacher=inputs.get("teacher")),
        models=ModelNames(
            teacher=spec.teacher.model,
            student=f"{distillation.name}/{trained.name}",
            base=base.model or (spec.teacher.model if base.prune == "teacher" else str(base.prune)),
        ),
        rows_per_split={
            split: int(count)
            for split, count in read_manifest(dataset_folder)["counts"].items()
            if split in ("train", "validation", "test")
        },
        test=test,
        dropped=_dropped(distillation),
        generated=pl.read_parquet(work / "generated.parquet"),
        fidelity=pl.read_parquet(fidelity) if fidelity.exists() else None,
        training=training,
        prediction=PredictResult.model_validate_json((work / RESULT_FILE).read_text(encoding="utf-8")),
        teacher_layers=_layers(distillation, base.prune),
        teacher_usd_per_1000_answers=None if spec.teacher.is_local else _usd_per_1000(distillation, dataset_folder),
    )


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


def _inputs(distillation: Distillation, student: str) -> dict[str, str]:
    trained = read_student(distillation, student)
    inputs = {"student": trained.version, "dataset": read_manifest(trained.folder)["inputs"]["dataset"]}
    cache = distillation.project.home / "digests"
    inputs["base"] = digest_model(trained.base_folder, cache).version
    teacher = distillation.spec.teacher
    if teacher.is_local:
        inputs["teacher"] = digest_model(find_model(distillation, teacher.model), cache).version
    return inputs


def _decoding(distillation: Distillation) -> dict[str, object]:
    teacher = distillation.spec.teacher
    return {
        "decoding": {
            "max_tokens": distillation.spec.evaluation.max_tokens or teacher.max_tokens,
            "teacher_dtype": teacher.dtype if teacher.is_local else None,
        }
    }


def _ref(folder: Path) -> ModelRef:
    return ModelRef(source=str(folder))


def _folder(distillation: Distillation, student: str, version: str) -> Path:
    return distillation.files.asset(asset_of(student)) / version
