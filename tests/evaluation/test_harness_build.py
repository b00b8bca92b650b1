"""An evaluation with tasks of lm-evaluation-harness: run once, then part of the key, the report and the page."""

import json
from pathlib import Path

import pytest

from distill_dagster.errors import EvaluationError, WorkerError
from distill_dagster.evaluation.build import EvaluationBuild, build_evaluation, evaluation_current
from distill_dagster.jobs import HarnessJob, Job
from distill_dagster.lifeline import Termination
from distill_dagster.lineage.manifests import read_manifest
from distill_dagster.worker import read_job, run
from tests.evaluation.recomputing import run as run_script
from tests.evaluation.recomputing import scripts
from tests.evaluation.test_build import Bench, checkpoints, no_worker
from tests.evaluation.test_harness import CHOICES, TEMPLATE, rows

__all__ = ["checkpoints"]
HARNESS = {"tasks": "tasks", "batch_size": 4}


class HarnessBench(Bench):
    """The same with a task in the distillation's folder."""

    def __init__(self, root: Path, teacher: Path, checkpoints: dict[str, Path]) -> None:
        super().__init__(root, teacher, checkpoints)
        self.declare(harness=HARNESS)
        self.train("first")
        self.all_jobs: list[Job] = []
        self.tasks = root / "assets" / "tiny" / "tasks"
        self.tasks.mkdir(parents=True)
        (self.tasks / "_template.yaml").write_text(TEMPLATE, encoding="utf-8")
        (self.tasks / "choices.yaml").write_text(CHOICES, encoding="utf-8")
        (self.tasks / "rows.jsonl").write_text("\n".join(map(json.dumps, rows())), encoding="utf-8")

    def build(self) -> EvaluationBuild:
        def launch(job_file: Path) -> None:
            self.all_jobs.append(read_job(job_file))
            if run(self.all_jobs[-1], Termination()):
                raise WorkerError("the worker failed")

        return build_evaluation(self.distillation, "first", launch)

    def is_current(self) -> bool:
        return evaluation_current(self.distillation, "first")

    def samples(self, model: str) -> Path:
        """The stored rows of a model."""
        for manifest in self.distillation.files.asset("harness").glob("*/manifest.json"):
            if json.loads(manifest.read_text(encoding="utf-8"))["details"]["model"] == model:
                return manifest.parent / "samples.parquet"
        raise AssertionError(f"nothing is stored of the {model}")


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path, checkpoints: dict[str, Path]) -> HarnessBench:
    return HarnessBench(tmp_path, tiny_model, checkpoints)


def test_an_evaluation_runs_its_tasks_once(bench: HarnessBench) -> None:
    """One build, and all that follows from it: the harness takes seconds to load."""
    first = bench.build()

    # the report and its page
    harness = first.report().harness
    assert harness is not None
    assert harness.systems == ["student", "base", "teacher"]
    [row] = harness.rows
    assert (row.label, row.systems["student"].n) == ("which_answer: acc", 8)
    page = first.report_path.read_text(encoding="utf-8")
    assert "Tasks of lm-evaluation-harness" in page
    assert "which_answer: acc" in page
    assert [type(job).__name__ for job in bench.all_jobs] == ["PredictJob", "HarnessJob"]
    assert isinstance(bench.all_jobs[1], HarnessJob)

    # what its manifest leads to
    named = {name: key for name, key in read_manifest(first.folder)["inputs"].items() if name.startswith("harness/")}
    assert list(named) == ["harness/base", "harness/student", "harness/teacher"]
    kept = bench.distillation.files.asset("harness")
    assert {path.name for path in kept.iterdir()} == set(named.values())
    assert bench.samples("student first").parent.name == named["harness/student"]

    # the documented script
    student, base = bench.samples("student first"), bench.samples("base of first")
    header, line = run_script(scripts()["harness"], student, base)
    said = dict(zip(header, line, strict=True))
    wanted = row.systems["student"], row.systems["base"], row.differences["base"]
    assert [float(said[name]) for name in ("left", "right", "difference")] == pytest.approx(
        [estimate.value for estimate in wanted]
    )

    # forced, it runs nothing again
    told = (first.folder / "report.json").read_bytes()
    forced = build_evaluation(bench.distillation, "first", no_worker, rebuild=True)
    assert (forced.evaluated, forced.version) == (True, first.version)
    assert (forced.folder / "report.json").read_bytes() == told

    # its key
    bench.declare(harness=HARNESS | {"batch_size": 1})
    assert bench.is_current()
    bench.declare(harness=HARNESS | {"limit": 2})
    assert not bench.is_current()
    bench.declare(harness=HARNESS)
    assert bench.is_current()
    (bench.tasks / "rows.jsonl").write_text(json.dumps(rows()[0]), encoding="utf-8")
    assert not bench.is_current()
    bench.declare()
    assert not bench.is_current()


def test_without_the_harness_nothing_is_started(bench: HarnessBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> str:
        raise EvaluationError("evaluation.harness needs an extra package: pip install 'distill-dagster[harness]'")

    monkeypatch.setattr("distill_dagster.evaluation.harness.harness_version", absent)

    with pytest.raises(EvaluationError, match=r"pip install 'distill-dagster\[harness\]'"):
        bench.build()

    assert bench.all_jobs == []
