"""lm-evaluation-harness in an evaluation: declared local tasks for student, base and a local teacher, each run once.

What a model reached is kept under a key of its weights, the tasks' files and data, the settings and the harness's
version, so that another evaluation of the same models runs nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill_dagster.evaluation.harness_files import (
    HarnessWanted,
    harness_version,
    missing_outcomes,
    publish_outcomes,
    read_outcomes,
)
from distill_dagster.evaluation.harness_table import HarnessTable, harness_table
from distill_dagster.evaluation.harness_tasks import HarnessTask, find_tasks, task_hashes
from distill_dagster.evaluation.model import System
from distill_dagster.evaluation.prediction_files import Wanted
from distill_dagster.evaluation.statistics import DEFAULT_SEED
from distill_dagster.jobs import HarnessJob, PredictModel
from distill_dagster.lineage.hashing import digest
from distill_dagster.project import Distillation
from distill_dagster.spec.harness import HarnessSpec
from distill_dagster.worker_process import Launch, run_job


@dataclass(frozen=True)
class HarnessModel:
    """A local model to measure.

    Attributes:
        system: whose results they are in the report.
        version: its content hash.
    """

    system: str
    model: PredictModel
    version: str


@dataclass(frozen=True)
class HarnessFindings:
    """What the harness said of an evaluation's models.

    Attributes:
        outcomes: by system, the key of the stored outcome that its numbers come from.
    """

    table: HarnessTable
    outcomes: Mapping[str, str]


def harness_sources(distillation: Distillation) -> dict[str, str]:
    """SHA-256 (hex) of every file that decides the declared tasks, by path, for a build key; empty without tasks.

    Raises:
        EvaluationError: as `find_tasks`.
    """
    spec = distillation.spec.evaluation.harness
    return {} if spec is None else task_hashes(_tasks(distillation, spec), distillation.folder)


def require_harness(distillation: Distillation) -> None:
    """Says that the harness is missing before anything else is done.

    Raises:
        EvaluationError: tasks are declared, and the harness is not installed.
    """
    if distillation.spec.evaluation.harness is not None:
        harness_version()


def harness_models(wanted: Iterable[Wanted], versions: Mapping[str, str]) -> list[HarnessModel]:
    """The models of an evaluation's predictions.

    Args:
        wanted: the predictions; with a hosted teacher there is none of it.
        versions: content hashes by system, as `Subjects.versions`.
    """
    return [HarnessModel(one.system, one.prediction.model, versions[one.system]) for one in wanted]


def run_harness(
    distillation: Distillation, models: Sequence[HarnessModel], work: Path, launch: Launch
) -> HarnessFindings | None:
    """All models on the declared tasks, of which only what is not stored is run now; None without tasks.

    Args:
        models: in the order of the table's columns.
        work: scratch that outlives a crash; what lies in its `harness` folder from one is taken over.
        launch: how the worker is started.

    Raises:
        EvaluationError: the harness is not installed, or a task is missing, leaves the project or cannot be run.
    """
    spec = distillation.spec.evaluation.harness
    if spec is None:
        return None
    tasks = _tasks(distillation, spec)
    wanted = _wanted(distillation, spec, tasks, models)
    out = work / "harness"
    publish_outcomes(distillation, wanted, out)
    absent = missing_outcomes(distillation, wanted)
    if absent:
        job = HarnessJob(
            models=[one.run for one in absent],
            tasks=[task.path for task in tasks],
            folder=distillation.folder.resolve(),
            limit=spec.limit,
            num_fewshot=spec.num_fewshot,
            apply_chat_template=spec.apply_chat_template,
            batch_size=spec.batch_size,
            out=out,
        )
        run_job(job, launch, on_poll=lambda: publish_outcomes(distillation, absent, out))
    outcomes = read_outcomes(distillation, wanted)
    table = harness_table(outcomes, spec, System.STUDENT, distillation.spec.evaluation.confidence, DEFAULT_SEED)
    return HarnessFindings(table, {one.system: one.run.key for one in wanted})


def _tasks(distillation: Distillation, spec: HarnessSpec) -> list[HarnessTask]:
    return find_tasks(spec, distillation.folder, distillation.project.root)


def _wanted(
    distillation: Distillation, spec: HarnessSpec, tasks: Sequence[HarnessTask], models: Sequence[HarnessModel]
) -> list[HarnessWanted]:
    """What is needed of each model, named by all that decides it. The batch size decides rounding only."""
    sources = digest(task_hashes(tasks, distillation.folder))
    settings = spec.model_dump(mode="json", exclude={"tasks", "batch_size"}) | {"harness": harness_version()}
    return [
        HarnessWanted.of(one.system, one.model, {"model": one.version, "tasks": sources}, settings) for one in models
    ]
