"""The stage: each completion is captured once, and what is missing, torn or edited is captured again, no more."""

import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.dataset.build import build_dataset
from distill_dagster.errors import LogitsError, WorkerError
from distill_dagster.jobs import CaptureJob
from distill_dagster.lifeline import Termination
from distill_dagster.logits import capture_shards
from distill_dagster.logits.build import LogitsBuild, build_logits, logits_current, read_logits_index
from distill_dagster.logits.declared import capture_identity
from distill_dagster.logits.of_dataset import captured_bytes_per_token, dataset_logits_version, dataset_places
from distill_dagster.logits.shards import shards_folder
from distill_dagster.planning.make import make_plan
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.store import write_prompts
from distill_dagster.teachers.outputs import build_outputs, make_teacher, remove_partitions
from distill_dagster.worker import read_job, run

Declare = Callable[..., Distillation]
SPEC = """
prompts:
  source: {{jsonl: rows.jsonl}}
  prompt: "{{{{ question }}}}"
  partition: {partition}
  split: {{validation: 0.2, test: 0.2}}
teacher: {{provider: transformers, model: {model}, dtype: float32, max_tokens: 12}}
curation: {{drop: [empty, duplicate]}}
logits: {{k: {k}, validation_rows: 2}}
evaluation: {{held_out_partitions: {held_out}}}
students:
  small: {{base: {{prune: teacher, layers: 2}}, objective: logit}}
"""


class Worker:
    """The real worker, in this process; counts what it captured."""

    def __init__(self) -> None:
        self.captured: list[int] = []

    def __call__(self, job_file: Path) -> None:
        job = read_job(job_file)
        assert run(job, Termination()) == 0
        if isinstance(job, CaptureJob):
            self.captured.append(len(pl.read_parquet(job.sequences)))


class Project:
    """A distillation of 24 questions whose stages are called one after another."""

    def __init__(self, declare: Declare, model: Path) -> None:
        self._declare, self._model = declare, model
        self.worker = Worker()
        self.questions = {number: f"What about {number}?" for number in range(24)}
        self.layout, self.k, self.held_out = "{by: topic}", 6, "[]"

    @property
    def distillation(self) -> Distillation:
        rows = "".join(
            f'{{"topic": "t{number % 3}", "id": {number}, "question": "{question}"}}\n'
            for number, question in self.questions.items()
        )
        spec = SPEC.format(model=self._model, partition=self.layout, k=self.k, held_out=self.held_out)
        return self._declare(spec, rows__jsonl=rows)

    def run(self) -> LogitsBuild:
        distillation = self.distillation
        prompts = build_prompts(distillation)
        remove_partitions(distillation, prompts.names)
        for name, made in prompts.partitions.items():
            write_prompts(distillation, name, made)
        build_outputs(distillation, prompts.names, make_teacher(distillation, self.worker))
        return build_logits(distillation, prompts.names, self.worker)

    def files(self) -> dict[Path, int]:
        """Modification times of all captured files."""
        root = self.distillation.files.root
        found = [*root.glob("teacher_logits/*/*.parquet"), *root.glob("teacher_logit_shards/*/*")]
        return {path: path.stat().st_mtime_ns for path in found}

    def shards(self) -> list[Path]:
        distillation = self.distillation
        return sorted(shards_folder(distillation.files.root, capture_identity(distillation)).glob("*.parquet"))


@pytest.fixture
def project(declare: Declare, tiny_model: Path) -> Project:
    return Project(declare, tiny_model)


def test_training_and_validation_answers_are_captured_once(project: Project):
    built = project.run()

    distillation = project.distillation
    index = pl.concat(read_logits_index(distillation, name).frame for name in built.partitions)
    assert set(index["split"]) == {"train", "validation"}
    assert project.worker.captured == [built.sequences] == [index["request_key"].n_unique()]
    hidden = index.filter("has_hidden")
    assert set(hidden["split"]) == {"validation"}
    assert all(read_logits_index(distillation, name).frame["has_hidden"].sum() <= 2 for name in built.partitions)
    assert all(logits_current(distillation, name, capture_identity(distillation)) for name in built.partitions)
    per_token = captured_bytes_per_token(distillation)
    assert per_token is not None
    assert per_token > 6 * 4


def test_nothing_is_captured_or_written_twice(project: Project):
    first, files = project.run(), project.files()

    second = project.run()

    assert len(project.worker.captured) == 1
    assert project.files() == files
    assert {name: made.version for name, made in second.partitions.items()} == {
        name: made.version for name, made in first.partitions.items()
    }
    assert not any(made.changed for made in second.partitions.values())


def test_an_edited_prompt_captures_one_sequence_and_undoing_it_none(project: Project):
    first, files = project.run(), project.files()
    index = pl.concat(read_logits_index(project.distillation, name).frame for name in first.partitions)
    number = next(n for n in project.questions if project_row(project, n) in set(index["prompt_id"]))
    before = project.questions[number]

    project.questions[number] = "And what about something else?"
    planned = make_plan(project.distillation)
    edited = project.run()
    assert (planned.calls.needed, planned.sequences) == (1, edited.sequences)
    new_files = set(project.files()).difference(files)
    project.questions[number] = before
    undone = project.run()

    assert project.worker.captured[1:] in ([1], [])  # none where the edit moved it to the test split
    assert [name for name, made in edited.partitions.items() if made.changed] == [f"t{number % 3}"]
    assert len(new_files) == 1 + len(project.worker.captured[1:])
    assert {path: time for path, time in project.files().items() if path in files} == files
    assert undone.partitions[f"t{number % 3}"].version == first.partitions[f"t{number % 3}"].version


def project_row(project: Project, number: int) -> str:
    """The prompt id of a question."""
    prompts = build_prompts(project.distillation).partitions[f"t{number % 3}"].frame
    return str(prompts.filter(pl.col("text") == project.questions[number])["prompt_id"][0])


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_what_a_damaged_shard_held_is_captured_again(project: Project, damage: str):
    first = project.run()
    [shard] = project.shards()
    if damage == "remove":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-50])
    distillation = project.distillation
    assert not any(logits_current(distillation, name, capture_identity(distillation)) for name in first.partitions)

    second = project.run()

    assert project.worker.captured == [first.sequences, first.sequences]
    assert {n: made.version for n, made in second.partitions.items()} == {
        n: made.version for n, made in first.partitions.items()
    }
    assert all(logits_current(distillation, name, capture_identity(distillation)) for name in second.partitions)


def test_another_partition_layout_captures_nothing_and_trains_nothing(project: Project):
    project.run()
    before = dataset_logits_version(project.distillation, build_dataset(project.distillation).version)

    project.layout = "{shards: 2}"
    built = project.run()

    dataset = build_dataset(project.distillation)
    assert set(built.partitions) != {"t0", "t1", "t2"}
    assert sum(project.worker.captured[1:]) <= 2  # validation rows that now keep their hidden states
    assert dataset_logits_version(project.distillation, dataset.version) == before
    rows = sum(dataset.split_counts[split] for split in ("train", "validation"))
    assert len(dataset_places(project.distillation, dataset.version)) == rows


def test_another_k_captures_beside_the_old_one(project: Project):
    first = project.run()
    old = project.shards()

    project.k = 3
    second = project.run()

    assert project.worker.captured == [first.sequences, second.sequences]
    assert all(path.exists() for path in old)
    assert not set(old).intersection(project.shards())
    assert second.partitions["t0"].version != first.partitions["t0"].version


def test_a_killed_capture_goes_on_where_it_was(project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(capture_shards, "SHARD_SEQUENCES", 4)
    write, written = capture_shards.write_shard, []

    def dies(path: Path, *arguments: object) -> None:
        if len(written) == 2:
            raise WorkerError("killed")
        written.append(path)
        write(path, *arguments)

    monkeypatch.setattr(capture_shards, "write_shard", dies)
    with pytest.raises((WorkerError, AssertionError)):
        project.run()
    monkeypatch.setattr(capture_shards, "write_shard", write)

    built = project.run()

    places = pl.concat(read_logits_index(project.distillation, name).frame for name in built.partitions)
    assert project.worker.captured == [places["request_key"].n_unique() - 8]


def test_too_little_disk_is_said_before_anything_is_captured(project: Project, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10_000, 9_900, 100))

    with pytest.raises(LogitsError, match=r"completions of \d+ tokens takes about .* has 100 bytes free.*logits\.k"):
        project.run()

    assert project.worker.captured == []
    assert not project.shards()


def test_a_held_out_partition_is_not_captured_and_costs_nothing_when_it_comes_back(project: Project) -> None:
    project.held_out = "[t1]"
    project.run()
    build_dataset(project.distillation)
    apart = project.worker.captured[:]
    held_out = read_logits_index(project.distillation, "t1").frame

    project.run()
    project.held_out = "[]"
    planned = make_plan(project.distillation).sequences
    project.run()

    assert held_out.is_empty()
    assert planned == project.worker.captured[-1]
    assert dataset_logits_version(project.distillation, build_dataset(project.distillation).version) is not None
    assert len(project.worker.captured) == len(apart) + 1
    assert project.worker.captured[-1] == len(read_logits_index(project.distillation, "t1").frame) > 0
