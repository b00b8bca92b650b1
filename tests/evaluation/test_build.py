"""The evaluation stage: predictions made once and kept, reports that know the distillation's other students."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill_dagster.dataset.build import build_dataset
from distill_dagster.errors import EvaluationError, WorkerError
from distill_dagster.evaluation.across.compare import compare_evaluations
from distill_dagster.evaluation.across.stored import find_evaluation
from distill_dagster.evaluation.build import EvaluationBuild, build_evaluation, evaluation_current
from distill_dagster.jobs import RESULT_FILE, EmbedJob, PredictJob, TrainResult
from distill_dagster.lifeline import Termination
from distill_dagster.project import Distillation, Project
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.storage import write_json
from distill_dagster.students.build import build_student
from distill_dagster.worker import read_job, run
from tests.dataset.frames import output, prompt, publish_outputs, publish_prompts
from tests.evaluation.recomputing import run as run_script
from tests.evaluation.recomputing import said, scripts, table
from tests.tiny import LESSONS, make_tiny_model

STUDENTS = {"first": 3, "second": 4}


class Bench:
    """A distillation of a tiny teacher whose students are ready-made; its worker runs in this process."""

    def __init__(self, root: Path, teacher: Path, checkpoints: dict[str, Path]) -> None:
        self.root = root
        self.checkpoints = checkpoints
        self.teacher = teacher
        self.jobs: list[PredictJob] = []
        self.embedded: list[EmbedJob] = []
        self.declare()
        splits = ["train", "validation", "test", "test", "test", "train", "train", "train"]
        asked = [prompt(f"p{index}", text, splits[index]) for index, text in enumerate(LESSONS)]
        said = [
            output(row["prompt_id"], LESSONS[row["text"]], token_ids=[40 + index, 50, 2])
            for index, row in enumerate(asked)
        ]
        publish_prompts(self.distillation, "all", asked)
        publish_outputs(self.distillation, "all", said)
        build_dataset(self.distillation)

    def declare(self, **evaluation: object) -> None:
        spec = DistillationSpec.model_validate(
            {
                "prompts": {"source": {"jsonl": "*.jsonl"}, "prompt": "{{ q }}"},
                "teacher": {
                    "provider": "transformers",
                    "model": str(self.teacher),
                    "dtype": "float32",
                    "max_tokens": 8,
                },
                "students": {name: {"base": {"model": str(self.teacher)}, "max_length": 128} for name in STUDENTS},
                "evaluation": evaluation,
            }
        )
        project = Project(self.root, self.root / ".distill")
        self.distillation = Distillation(project, "tiny", self.root / "assets" / "tiny", spec)

    def train(self, name: str) -> None:
        def launch(job_file: Path) -> None:
            out = Path(json.loads(job_file.read_text(encoding="utf-8"))["out"])
            shutil.copytree(self.checkpoints[name], out / "student")
            result = TrainResult(
                rows_trained=4,
                rows_over_length=0,
                over_length_ids=[],
                steps=2,
                tokens_trained=12,
                train_loss=1.0,
                validation_loss=None,
                kept_layers=None,
                block_influence=None,
                parameters=1,
                loss_curve=[(1, 1.0)],
                validation_curve=[],
                measurements={"seconds": 1.5},
            )
            write_json(out / RESULT_FILE, result.model_dump(mode="json"))

        build_student(self.distillation, name, launch)

    def evaluate(self, name: str, after: Callable[[PredictJob], None] | None = None) -> EvaluationBuild:
        """Args: after: called when the worker is done, before it says so."""

        def launch(job_file: Path) -> None:
            job = read_job(job_file)
            if run(job, Termination()):
                raise WorkerError("the worker failed")
            if isinstance(job, EmbedJob):
                self.embedded.append(job)
                return
            assert isinstance(job, PredictJob)
            self.jobs.append(job)
            if after is not None:
                after(job)

        return build_evaluation(self.distillation, name, launch)

    @property
    def asked(self) -> list[list[str]]:
        """Names of the models of each worker job so far."""
        return [[one.model.name for one in job.predictions] for job in self.jobs]

    @property
    def stored(self) -> list[Path]:
        return sorted((self.distillation.files.asset("predictions")).iterdir())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: make_tiny_model(root / name, layers=2, seed=seed, steps=20) for name, seed in STUDENTS.items()}


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path, checkpoints: dict[str, Path]) -> Bench:
    return Bench(tmp_path, tiny_model, checkpoints)


def test_a_student_alone_has_no_companions(bench: Bench) -> None:
    bench.train("first")

    report = bench.evaluate("first").report()

    assert report.companions == []
    assert bench.asked == [["student first", "base of first", "teacher"]]
    assert set(report.measure("fidelity", "top1").systems) >= {"student", "base", "bigram", "most_frequent"}


def test_two_students_of_one_base_are_answered_in_one_job(bench: Bench) -> None:
    bench.train("first")
    bench.train("second")

    first, second = bench.evaluate("first"), bench.evaluate("second")

    assert bench.asked == [["student first", "student second", "base of first", "teacher"]]
    assert first.report().companions == ["student/second"]
    assert second.report().companions == ["student/first"]
    assert len(bench.stored) == 4
    one, other = (build.report().measure("fidelity", "forward_kl") for build in (first, second))
    assert one.systems["student/second"] == other.systems["student"]
    assert one.systems["base"] == other.systems["base"]


def test_a_student_trained_later_makes_the_report_due_and_only_it_is_answered(bench: Bench) -> None:
    bench.train("first")
    alone = bench.evaluate("first")
    assert evaluation_current(bench.distillation, "first")

    bench.train("second")

    assert not evaluation_current(bench.distillation, "first")
    beside = bench.evaluate("first")
    assert bench.asked[1:] == [["student second"]]
    assert (
        alone.report().measure("quality", "chrf").systems["student"]
        == beside.report().measure("quality", "chrf").systems["student"]
    )
    assert evaluation_current(bench.distillation, "first")


def test_what_a_killed_run_had_finished_is_not_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.train("first")

    def dies(job: PredictJob) -> None:
        shutil.rmtree(job.out / job.predictions[1].key)
        shutil.rmtree(bench.distillation.files.asset("predictions"), ignore_errors=True)
        raise WorkerError("killed")

    monkeypatch.setattr("distill_dagster.evaluation.measuring.publish_finished", lambda *_: None)
    with pytest.raises(WorkerError, match="killed"):
        bench.evaluate("first", after=dies)
    monkeypatch.undo()

    bench.evaluate("first")

    assert bench.asked[1:] == [["base of first"]]


@pytest.mark.parametrize("stage", ["train", "predict"])
def test_scratch_files_of_a_run_that_died_when_it_had_published_go_with_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    scratch = bench.distillation.files.root / ".work" / stage
    does = {"train": bench.train, "predict": bench.evaluate}[stage]
    remove = shutil.rmtree

    def dies(path: Path | str, **options: Any) -> None:
        if Path(path).parent == scratch:
            raise KeyboardInterrupt
        remove(path, **options)

    if stage == "predict":
        bench.train("first")
    monkeypatch.setattr(shutil, "rmtree", dies)
    with pytest.raises(KeyboardInterrupt):
        does("first")
    monkeypatch.undo()
    assert len(list(scratch.iterdir())) == 1

    does("first")

    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("harm", ["missing", "torn", "without manifest"])
def test_a_stored_prediction_that_is_not_whole_is_made_again(bench: Bench, harm: str) -> None:
    bench.train("first")
    bench.evaluate("first")
    key = bench.jobs[0].predictions[0].key
    stored = bench.distillation.files.asset("predictions") / key
    match harm:
        case "missing":
            (stored / "fidelity.parquet").unlink()
        case "torn":
            (stored / "generated.parquet").write_bytes((stored / "generated.parquet").read_bytes()[:-7])
        case _:
            (stored / "manifest.json").unlink()

    bench.declare(metrics=["chrf"])
    bench.evaluate("first")

    assert bench.asked[1:] == [["student first"]]
    assert {path.name for path in stored.iterdir()} == {
        "generated.parquet",
        "fidelity.parquet",
        "result.json",
        "manifest.json",
    }


def test_other_metrics_need_no_new_answers_and_a_longer_limit_does(bench: Bench) -> None:
    bench.train("first")
    bench.evaluate("first")

    bench.declare(metrics=["chrf"])
    bench.evaluate("first")
    assert len(bench.jobs) == 1

    bench.declare(max_tokens=4)
    bench.evaluate("first")
    assert bench.asked[1] == bench.asked[0]


def test_an_embedding_model_reads_what_is_stored_and_asks_nobody(bench: Bench) -> None:
    bench.train("first")
    bench.evaluate("first")

    bench.declare(metrics=["chrf", {"embedding_similarity": str(bench.teacher)}])
    build = bench.evaluate("first")

    assert (len(bench.jobs), len(bench.embedded)) == (1, 1)
    closeness = build.report().measure("fidelity", "embedding_similarity")
    assert closeness is not None
    assert {system: estimate.n for system, estimate in closeness.systems.items()} == {"student": 3, "base": 3}
    assert closeness.systems["base"].value is not None
    assert closeness.systems["base"].value > 0.5  # it is the teacher itself, cut short


def test_a_model_of_the_hub_without_a_revision_is_told_before_anything_is_done(bench: Bench) -> None:
    bench.train("first")
    bench.declare(metrics=["chrf", {"embedding_similarity": "owner/embedder"}])

    with pytest.raises(EvaluationError, match=r"'owner/embedder' is no folder here.*needs `revision`"):
        bench.evaluate("first")

    assert bench.jobs == []


def test_the_same_inputs_are_adopted(bench: Bench) -> None:
    bench.train("first")
    first = bench.evaluate("first")

    again = bench.evaluate("first")

    assert (again.version, again.evaluated, again.changed) == (first.version, False, False)


def no_worker(job_file: Path) -> None:
    raise AssertionError(f"a worker was started: {job_file}")


def test_a_forced_evaluation_measures_the_stored_predictions_again(bench: Bench) -> None:
    bench.train("first")
    first = bench.evaluate("first")

    again = build_evaluation(bench.distillation, "first", no_worker, rebuild=True)
    adopted = build_evaluation(bench.distillation, "first", no_worker)

    assert (again.evaluated, again.changed, again.version) == (True, False, first.version)
    assert (adopted.evaluated, adopted.version) == (False, first.version)


@pytest.mark.parametrize("forgotten", [False, True], ids=["folder lost", "folder and record lost"])
def test_an_evaluation_made_again_has_the_same_bytes(bench: Bench, forgotten: bool) -> None:
    bench.train("first")
    first = bench.evaluate("first")
    stored = {name: (first.folder / name).read_bytes() for name in ("report.json", "measurements.json")}
    rows = pl.read_parquet(first.folder / "predictions.parquet")
    shutil.rmtree(first.folder)
    if forgotten:
        (bench.distillation.files.asset("evaluations/first") / "current.json").unlink()
        shutil.rmtree(bench.distillation.project.home / "builds")
        bench.train("first")

    again = build_evaluation(bench.distillation, "first", no_worker)

    assert (again.evaluated, again.version) == (True, first.version)
    assert {name: (again.folder / name).read_bytes() for name in stored} == stored
    assert pl.read_parquet(again.folder / "predictions.parquet").equals(rows)


def test_the_documented_script_comes_to_the_numbers_of_a_built_evaluation(bench: Bench) -> None:
    bench.train("first")
    bench.train("second")
    build = bench.evaluate("first")

    found = table(run_script(scripts()["recompute"], build.folder / "predictions.parquet"))

    reported = {(column, left, right): estimate for column, _, left, right, estimate in said(build.report())}
    numbers = {key: estimate.value for key, estimate in reported.items() if estimate.n and key[0] != "nll_sum"}
    again = {key: found[key]["left" if key[1] == key[2] else "difference"] for key in numbers}
    assert again == pytest.approx(numbers, rel=1e-9, abs=1e-9)
    assert {("kl_sum", "student", "base"), ("chrf_vs_teacher", "student", "student/second")} <= set(numbers)


def test_built_evaluations_are_compared_across_time(bench: Bench) -> None:
    bench.train("first")
    longer = bench.evaluate("first")
    bench.declare(max_tokens=4)
    shorter = bench.evaluate("first")

    a = find_evaluation(bench.distillation, f"first@{longer.version[:12]}")
    b = find_evaluation(bench.distillation, "first")
    comparison, _ = compare_evaluations(bench.distillation, a, b)

    assert (a.current, b.current, b.version) == (False, True, shorter.version)
    assert comparison.rows.both == 3
    changes = {change.what: (change.a, change.b) for change in comparison.changes}
    assert changes["decoding.max_tokens"] == (8, 4)
    kl = next(one for one in comparison.measures if one.name == "forward_kl")
    assert (kl.verdict, kl.difference.value) == ("equal", 0.0)  # answers are shorter, the teacher's are the same


def test_answers_side_by_side_have_a_column_for_each_model(bench: Bench) -> None:
    bench.train("first")
    bench.train("second")

    table = bench.evaluate("first").side_by_side()

    assert table.columns == ["text", "Teacher", "Student", "second", "Base"]
    assert (len(table), table["text"].is_in(list(LESSONS)).all()) == (3, True)


def test_an_untrained_student_cannot_be_evaluated(bench: Bench) -> None:
    with pytest.raises(EvaluationError, match="not trained on the current dataset"):
        bench.evaluate("first")
