"""The `evaluation/<name>` stage: adopts what was measured before, or has it measured, and publishes the report."""

import dataclasses
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.declared_metrics import metric_sources
from distill_dagster.evaluation.formatting import system_label
from distill_dagster.evaluation.golden import gate_candidates, golden_stored, golden_versions, require_current_golden
from distill_dagster.evaluation.harness import harness_sources
from distill_dagster.evaluation.measuring import measure
from distill_dagster.evaluation.metadata import metric_plot_markdown, summary_markdown
from distill_dagster.evaluation.model import EvaluationReport, answering
from distill_dagster.evaluation.planned_calls import Asking, Purses
from distill_dagster.evaluation.second_sample import second_sample_settings
from distill_dagster.evaluation.subjects import Subjects, decoding, find_subjects
from distill_dagster.evaluation.write import (
    PREDICTIONS_FILE,
    REPORT_HTML_FILE,
    REPORT_JSON_FILE,
    evaluation_version,
    write_evaluation,
)
from distill_dagster.judging.ask import judge_settings
from distill_dagster.lineage.builds import BuildRecord, Builds, build_key
from distill_dagster.lineage.manifests import Manifest, spec_hash, write_manifest
from distill_dagster.project import Distillation
from distill_dagster.prompts.splits import Split
from distill_dagster.storage import Current, new_folder, read_current, write_current
from distill_dagster.teachers.asking.obtaining import Purse
from distill_dagster.teachers.store.leases import Leases
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.worker_process import Launch

STAGE_NUMBER = 6
_ROW = ["prompt_id", "sample", "text"]
_SHOWN = [*_ROW, "split", "model", "prediction"]


@dataclass(frozen=True)
class EvaluationBuild:
    """An adopted evaluation.

    Attributes:
        calls: those that were made for it now, by what for.
    """

    student: str
    version: str
    folder: Path
    changed: bool
    evaluated: bool
    calls: Mapping[Asking, int] = field(default_factory=dict)

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
        """Prompt and every model's answer of each test row; columns `text` and the models' labels."""
        shown = answering(self.report().companions)
        rows = pl.read_parquet(self.folder / PREDICTIONS_FILE, columns=_SHOWN).filter(split=Split.TEST.value)
        answers = rows.filter(pl.col("model").is_in(list(map(str, shown)))).pivot(
            "model", index=_ROW, values="prediction"
        )
        present = [system for system in shown if system in answers.columns]
        return answers.select("text", *(pl.col(str(system)).alias(system_label(system)) for system in present))


def asset_of(student: str) -> str:
    """The asset's folder under the distillation."""
    return f"evaluations/{student}"


def evaluation_build_key(distillation: Distillation, student: str) -> str | None:
    """The build key of an evaluation; None while its student is not the current one.

    It covers the versions of all students that are current, for the report shows them side by side, and with a gate
    that of the golden set.
    """
    subjects = find_subjects(distillation, student)
    if subjects is None or not golden_stored(distillation):
        return None
    return evaluation_key_for(distillation, subjects)


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


def build_evaluation(
    distillation: Distillation,
    student: str,
    launch: Launch,
    *,
    rebuild: bool = False,
    run: str | None = None,
    turn: AbstractContextManager[None] | None = None,
    planned: Mapping[Asking, int] | None = None,
) -> EvaluationBuild:
    """Evaluates the current student, or adopts the evaluation that the same inputs came to before.

    Args:
        rebuild: measure again where there is one already; stored predictions, outcomes of the harness and verdicts of
            the judge are not made again.
        run: which run pays for the teacher's answers to golden rows, for second ones and for the judge, e.g. a Dagster
            run id.
        turn: held while the judge is asked, e.g. a place in its pool.
        planned: the most calls that a plan allows, by what for; None where there is no plan.

    Raises:
        PlanError: more calls are missing than were planned; none of their kind is made.
        EvaluationError: the student is missing or older than its dataset, the test split is empty, or there is a gate
            and the golden set is not what its source has.
    """
    subjects = find_subjects(distillation, student)
    if subjects is None:
        raise EvaluationError(
            f"{distillation.name}: student {student!r} is not trained on the current dataset; materialise it first"
        )
    require_current_golden(distillation)
    key = evaluation_key_for(distillation, subjects)
    purses = Purses(Purse(distillation, run), planned)
    builds = Builds(distillation.project.home)
    leases = Leases(ResponseStore(distillation.project.store_url).engine)
    with leases.hold(f"build/{key}"):
        work = distillation.files.work("predict", key)
        known = builds.find(key)
        if not rebuild and known is not None and _folder(distillation, student, known.version).is_dir():
            shutil.rmtree(work)  # of a run that was killed when it had published
            return _adopt(distillation, student, known, evaluated=False)
        with leases.hold(f"predictions/{distillation.name}"):  # what two evaluations share is made once
            record = _evaluate(distillation, subjects, key, work, launch, purses, turn)
        record = builds.adopt(record, rebuild=known is not None)
        shutil.rmtree(work)
        return dataclasses.replace(_adopt(distillation, student, record, evaluated=True), calls=purses.made)


def evaluation_key_for(distillation: Distillation, subjects: Subjects) -> str:
    """The build key of an evaluation of these models."""
    settings = distillation.spec.evaluation.model_dump(
        mode="json", exclude={"batch_size": True, "judge": True, "harness": {"batch_size"}}
    )
    settings["student"] = f"{distillation.name}/{subjects.student.name}"
    settings["decoding"] = decoding(distillation)
    sources = metric_sources(
        distillation.spec, distillation.folder, distillation.project.root, distillation.project.home / "digests"
    )
    if sources:
        settings["metric_sources"] = sources
    if (again := second_sample_settings(distillation)) is not None:
        settings["second_sample"] = again
    if candidates := gate_candidates(distillation):
        settings["candidates"] = candidates
    if tasks := harness_sources(distillation):
        settings["harness_sources"] = tasks
    if distillation.spec.evaluation.judge is not None:
        settings["judge"] = judge_settings(distillation)
    return build_key("evaluation", STAGE_NUMBER, subjects.versions | golden_versions(distillation), settings)


def _adopt(distillation: Distillation, student: str, record: BuildRecord, *, evaluated: bool) -> EvaluationBuild:
    changed = write_current(distillation.files.asset(asset_of(student)), Current(record.version, record.build_key))
    folder = _folder(distillation, student, record.version)
    return EvaluationBuild(student, record.version, folder, changed=changed, evaluated=evaluated)


def _evaluate(
    distillation: Distillation,
    subjects: Subjects,
    key: str,
    work: Path,
    launch: Launch,
    purses: Purses,
    turn: AbstractContextManager[None] | None,
) -> BuildRecord:
    student, inputs = subjects.student.name, subjects.versions | golden_versions(distillation)
    measured = measure(distillation, subjects, work, launch, purses, turn)
    aside = work / "report"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    report = write_evaluation(aside, measured.evaluation)
    version = evaluation_version(aside)
    with new_folder(_folder(distillation, student, version)) as folder:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        manifest = Manifest(
            distillation=distillation.name,
            asset=f"evaluation/{student}",
            version=version,
            build_key=key,
            inputs=inputs | measured.outcomes,
            spec_hash=spec_hash(distillation.spec),
            counts=measured.counts,
            details={
                "metrics": distillation.spec.evaluation.metric_names,
                "headlines": report.headlines,
                "second_sample": second_sample_settings(distillation),
            },
        )
        write_manifest(folder, manifest)
    return BuildRecord(key, "evaluation", version, inputs, {"test_rows": measured.counts["test_rows"]})


def _folder(distillation: Distillation, student: str, version: str) -> Path:
    return distillation.files.asset(asset_of(student)) / version
