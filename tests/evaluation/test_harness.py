"""lm-evaluation-harness itself on tiny models: offline, without a cache, each model with its own scores."""

import dataclasses
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest
import torch

from distill_dagster.errors import EvaluationError, WorkerError
from distill_dagster.evaluation.harness import HarnessModel, run_harness
from distill_dagster.evaluation.harness_files import SAMPLES_FILE, SAMPLES_SCHEMA
from distill_dagster.evaluation.harness_table import HarnessTable
from distill_dagster.evaluation.model import System
from distill_dagster.jobs import ModelRef, PredictModel
from distill_dagster.lifeline import Termination
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.project import Distillation, Project
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.students.train import run_train
from distill_dagster.teachers.local.chat_model import ChatModel, load_chat_model
from distill_dagster.teachers.local.generation import generate
from distill_dagster.worker import read_job, run
from distill_dagster.worker_process import no_launch, worker_command
from tests.tiny import LESSONS, make_tiny_model
from tests.worker_jobs import dataset_rows, train_job, write_dataset

CHOICES = """
include: _template.yaml
task: which_answer
output_type: multiple_choice
doc_to_choice: "{{ choices }}"
doc_to_target: "{{ right }}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 2.0}
"""
ANSWERS = """
include: _template.yaml
task: say_it
output_type: generate_until
doc_to_target: answer
process_results: !function scoring.said
metric_list: [{metric: said, aggregation: mean, higher_is_better: true}]
generation_kwargs: {until: ["\\n"], max_gen_toks: 24}
"""
LIKELIHOOD = """
include: _template.yaml
task: how_likely
output_type: loglikelihood
doc_to_target: answer
metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}]
num_fewshot: 0
"""
TEMPLATE = """
dataset_path: json
dataset_kwargs: {data_files: {test: tasks/rows.jsonl}}
test_split: test
doc_to_text: question
"""
SCORING = """
def said(doc, results):
    return {"said": float(results[0].strip() == doc["answer"])}
"""
TASK_FILES = {
    "_template.yaml": TEMPLATE,
    "answers.yaml": ANSWERS,
    "choices.yaml": CHOICES,
    "likelihood.yaml": LIKELIHOOD,
    "scoring.py": SCORING,
}
# Python imports this when it starts: no connection is made in such a process, and one that is tried is written down.
GUARD = """
import os, pathlib, socket

told = pathlib.Path(os.environ["GUARD"])
told.touch()

def refuse(self, address, *rest):
    told.write_text(f"{told.read_text()}{address}\\n")
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = refuse
"""


@dataclass
class Bench:
    """A distillation with harness tasks, and a worker that is watched."""

    root: Path
    settings: dict[str, object] = field(default_factory=dict)

    @property
    def distillation(self) -> Distillation:
        spec = DistillationSpec.model_validate(
            {
                "prompts": {"source": {"jsonl": "*.jsonl"}, "prompt": "{{ q }}"},
                "teacher": {"provider": "transformers", "model": "tiny"},
                "evaluation": {"harness": {"tasks": "tasks", "batch_size": 3, **self.settings}},
            }
        )
        project = Project(self.root, self.root / ".distill")
        return Distillation(project, "tiny", self.root / "assets" / "tiny", spec)

    @property
    def stored(self) -> Path:
        return self.distillation.files.asset("harness")

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that may reach nothing, with empty places for every cache."""
        paths = [str(self.root / "guard"), os.environ.get("PYTHONPATH", "")]
        places = {name: str(self.root / "caches" / name) for name in ("HF_HOME", "LM_HARNESS_CACHE_PATH", "HOME")}
        guard = {"GUARD": str(self.root / "connections"), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        return {**os.environ, **places, **guard}

    def launch(self, job_file: Path) -> None:
        done = subprocess.run(
            worker_command(job_file), env=self.environment, capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.stderr) == ("", "")
        if done.returncode:
            raise WorkerError("the worker failed")

    def run(self, models: dict[str, Path], launch: Callable[[Path], None] | None = None) -> HarnessTable:
        asked = [
            HarnessModel(
                system,
                PredictModel(name=system, model=ModelRef(source=str(path)), dtype="float32", generate=True),
                version=path.parent.name,
            )
            for system, path in models.items()
        ]
        found = run_harness(self.distillation, asked, self.root / "work", launch or self.launch)
        assert found is not None
        return found.table

    def samples(self, system: str) -> pl.DataFrame:
        """The rows of a stored outcome."""
        for folder in self.stored.iterdir():
            if json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["details"]["model"] == system:
                return pl.read_parquet(folder / SAMPLES_FILE)
        raise AssertionError(f"nothing is stored of the {system}")


def make_bench(root: Path, **settings: object) -> Bench:
    tasks = root / "assets" / "tiny" / "tasks"
    tasks.mkdir(parents=True)
    for name, content in TASK_FILES.items():
        (tasks / name).write_text(content, encoding="utf-8")
    (tasks / "rows.jsonl").write_text("\n".join(map(json.dumps, rows())), encoding="utf-8")
    (root / "guard").mkdir()
    (root / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    return Bench(root, settings)


def rows() -> list[dict[str, object]]:
    """The right answer among two others, at a place that changes from row to row."""
    answers = list(LESSONS.values())
    found: list[dict[str, object]] = []
    for index, (question, answer) in enumerate(LESSONS.items()):
        choices = [answers[(index + 1) % len(answers)], answers[(index + 2) % len(answers)]]
        choices.insert(index % 3, answer)
        found.append({"question": question, "answer": answer, "choices": choices, "right": index % 3})
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model that has half learned the lessons, one that knows nothing, and one that knows them."""
    root = tmp_path_factory.mktemp("models")
    return {
        System.STUDENT: make_tiny_model(root / "half" / "model", layers=2, seed=3, steps=45),
        System.BASE: make_tiny_model(root / "none" / "model", layers=2, seed=3, steps=0),
        System.TEACHER: make_tiny_model(root / "all" / "model", layers=4, seed=0),
    }


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def table(bench: Bench, models: dict[str, Path]) -> HarnessTable:
    """What a first run of all models comes to."""
    return bench.run(models)


def likelihood(chat: ChatModel, question: object, answer: object) -> float:
    """Log-probability of an answer after a question, worked out without the harness.

    Like there, white space that ends the prompt (here a line break, one token) counts as the answer's.
    """
    *prompt, line_break = chat.encode([{"role": "user", "content": str(question)}])
    target = [line_break, *chat.tokenizer.encode(str(answer), add_special_tokens=False)]
    with torch.no_grad():
        log_probs = chat.model(torch.tensor([prompt + target], device=chat.device)).logits[0].log_softmax(-1)
    return sum(float(log_probs[len(prompt) - 1 + at, token]) for at, token in enumerate(target))


def chosen(chat: ChatModel, row: dict[str, object]) -> int:
    """The choice that a model finds most likely."""
    choices = [likelihood(chat, row["question"], choice) for choice in row["choices"]]  # type: ignore[attr-defined]
    return choices.index(max(choices))


def said(chat: ChatModel, row: dict[str, object]) -> str:
    """A model's own answer, from this project's generation."""
    [answer] = generate(chat, [chat.encode([{"role": "user", "content": str(row["question"])}])], max_tokens=24)
    return answer.text.split("\n")[0].strip()


def loaded(path: Path) -> ChatModel:
    return load_chat_model(ModelRef(source=str(path)), "float32", EvaluationError)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_each_model_has_its_own_scores(bench: Bench, table: HarnessTable, models: dict[str, Path]) -> None:
    likelihoods = set()
    for system, path in models.items():
        chat, samples = loaded(path), bench.samples(system)
        assert samples.schema == SAMPLES_SCHEMA
        scores = {task: frame["score"].to_list() for (task,), frame in samples.group_by("task", maintain_order=True)}
        assert scores["which_answer"] == [float(chosen(chat, row) == row["right"]) for row in rows()]
        assert scores["say_it"] == [float(said(chat, row) == row["answer"]) for row in rows()]
        own = [likelihood(chat, row["question"], row["answer"]) for row in rows()]
        assert scores["how_likely"] == pytest.approx(own, rel=1e-3)
        likelihoods.add(tuple(scores["how_likely"]))

    assert len(likelihoods) == len(models)
    [said_by] = [row.systems for row in table.rows if row.task == "say_it"]
    assert said_by["base"].value != said_by["teacher"].value


def test_nothing_is_asked_of_the_network_and_no_cache_is_written(bench: Bench, table: HarnessTable) -> None:
    assert (bench.root / "connections").read_text(encoding="utf-8") == ""
    assert files_below(bench.root / "caches") == set()
    assert files_below(bench.root / "assets") == {f"tiny/tasks/{name}" for name in [*TASK_FILES, "rows.jsonl"]}
    assert {path.name for path in (bench.root / "work" / "harness").iterdir() if path.is_dir()} == {
        path.name for path in bench.stored.iterdir()
    }


def test_the_table_says_what_the_harness_says(bench: Bench, table: HarnessTable) -> None:
    assert [(row.label, row.description, row.higher_is_better) for row in table.rows] == [
        ("say_it: said", "no version, 0-shot", True),
        ("which_answer: acc", "version 2.0, 0-shot", True),
        ("how_likely: perplexity", "no version, 0-shot", False),
    ]
    assert (table.systems, table.pairs) == (
        ["student", "base", "teacher"],
        [("student", "base"), ("student", "teacher")],
    )
    for folder in bench.stored.iterdir():
        system = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["details"]["model"]
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        assert result["harness"] == table.harness == importlib.metadata.version("lm_eval")
        for row, score in zip(table.rows, result["scores"], strict=True):
            assert row.systems[system].value == pytest.approx(score["value"])
            assert (row.systems[system].n, row.stderr[system]) == (score["n"], score["stderr"]) == (8, score["stderr"])


def test_a_second_run_computes_nothing(bench: Bench, table: HarnessTable, models: dict[str, Path]) -> None:
    bench = dataclasses.replace(bench, settings={"batch_size": 1})

    assert bench.run(models, no_launch) == table


def test_two_systems_with_one_model_run_it_once(bench: Bench, table: HarnessTable, models: dict[str, Path]) -> None:
    twice = bench.run({System.STUDENT: models[System.BASE], System.BASE: models[System.BASE]}, no_launch)

    assert [row.differences["base"].value for row in twice.rows if row.differences] == [0, 0]


def edit(name: str, old: str, new: str) -> Callable[[Bench, dict[str, Path]], None]:
    def change(bench: Bench, models: dict[str, Path]) -> None:
        path = bench.root / "assets" / "tiny" / "tasks" / name
        content = path.read_text(encoding="utf-8")
        assert old in content
        path.write_text(content.replace(old, new), encoding="utf-8")

    return change


def tear(bench: Bench, models: dict[str, Path]) -> None:
    next(bench.stored.glob(f"*/{SAMPLES_FILE}")).write_bytes(b"PAR1")


CHANGES: dict[str, Callable[[Bench, dict[str, Path]], None]] = {
    "a row": edit("rows.jsonl", "It is on its way.", "It is near."),
    "a task": edit("choices.yaml", "2.0", "2.1"),
    "an included file": edit("_template.yaml", "question", '"Q: {{ question }}"'),
    "a function": edit("scoring.py", ".strip()", ".lower()"),
    "a setting": lambda bench, models: bench.settings.update(limit=2),
    "a model": lambda bench, models: models.update(base=models[System.STUDENT].parent.parent / "other" / "model"),
    "a torn file": tear,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_an_outcome_has_it_run_again(
    change: str, bench: Bench, table: HarnessTable, models: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(bench.root, tmp_path / "copy")
    copy, asked = Bench(tmp_path / "copy"), dict(models)
    assert copy.run(asked, no_launch) == table

    CHANGES[change](copy, asked)

    with pytest.raises(WorkerError, match="no worker may be started"):
        copy.run(asked, no_launch)


def in_this_process(job_file: Path) -> None:
    if run(read_job(job_file), Termination()):
        raise WorkerError("the worker failed")


def test_few_shot_and_limit_reach_the_harness(models: dict[str, Path], tmp_path: Path) -> None:
    tasks = ["tasks/choices.yaml", "tasks/likelihood.yaml"]
    bench = make_bench(tmp_path, num_fewshot=2, limit=3, apply_chat_template=False, tasks=tasks)
    table = bench.run({System.STUDENT: models[System.STUDENT]}, in_this_process)

    told = [(row.task, row.shots, row.systems["student"].n) for row in table.rows]
    assert told == [("which_answer", 2, 3), ("how_likely", 0, 3)]  # the second fixes its shots
    assert (table.limit, table.chat_template, table.pairs) == (3, False, [])


def test_a_task_that_cannot_be_run_is_named_and_what_is_done_stays(models: dict[str, Path], tmp_path: Path) -> None:
    bench = make_bench(tmp_path, tasks="tasks/answers.yaml")
    bench.run({System.STUDENT: models[System.STUDENT]}, in_this_process)
    edit("scoring.py", "float(", "1 / len(")(bench, models)

    with pytest.raises(EvaluationError, match=r"answers\.yaml: the harness cannot run this task: TypeError"):
        bench.run({System.STUDENT: models[System.STUDENT]}, in_this_process)

    assert len(list(bench.stored.iterdir())) == 1


def test_without_the_harness_the_extra_is_named(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(EvaluationError, match=r"pip install 'distill-dagster\[harness\]'"):
        make_bench(tmp_path).run({System.STUDENT: models[System.STUDENT]})


def test_a_student_is_a_model_of_the_harness_own_command(tiny_model: Path, tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    dataset = write_dataset(tmp_path / "dataset", train=dataset_rows(6), validation=dataset_rows(2, first=9))
    job = train_job(tiny_model, dataset, tmp_path / "trained", max_steps=4)
    run_train(job, ProgressWriter(tmp_path / "progress.jsonl"), Termination())
    student = job.out / "student"

    command = ["run", "--model", "hf", "--model_args", f"pretrained={student},dtype=float32", "--device", "cpu"]
    command += ["--tasks", "which_answer,say_it", "--include_path", "tasks", "--apply_chat_template"]
    command += ["--output_path", str(tmp_path / "told")]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *command],
        cwd=bench.distillation.folder,
        env=bench.environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    [told] = (tmp_path / "told").rglob("results_*.json")
    results, chat = json.loads(told.read_text(encoding="utf-8"))["results"], loaded(student)
    right = [chosen(chat, row) == row["right"] for row in rows()]
    assert results["which_answer"]["acc,none"] == pytest.approx(sum(right) / len(right))
    assert results["say_it"]["said,none"] == sum(said(chat, row) == row["answer"] for row in rows()) / len(rows())
    assert (bench.root / "connections").read_text(encoding="utf-8") == ""
