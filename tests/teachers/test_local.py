"""The local teacher as the graph sees it: one worker start, shards taken over, requests written as they are claimed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from distill_dagster.errors import TeacherError
from distill_dagster.jobs import GenerateJob
from distill_dagster.project import Distillation
from distill_dagster.teachers.local import engines
from distill_dagster.teachers.local.shards import SHARD_SCHEMA
from distill_dagster.teachers.local.teacher import LocalTeacher, write_requests
from distill_dagster.teachers.protocol import Response
from tests.worker_jobs import messages

Declare = Callable[..., Distillation]


class DeskStub:
    def __init__(self) -> None:
        self.answers: list[Response] = []

    @property
    def keys(self) -> list[str]:
        return [answer.request_key for answer in self.answers]

    def deliver(self, answers: Sequence[Response]) -> None:
        self.answers += answers

    def lost(self, request_key: str) -> bool:
        raise AssertionError(f"{request_key}: a local answer is never lost")


class Worker:
    """Stands in for the worker: answers every request of its job with one shard."""

    def __init__(self) -> None:
        self.jobs: list[GenerateJob] = []

    def __call__(self, job_file: Path) -> None:
        job = GenerateJob.model_validate_json(job_file.read_bytes())
        self.jobs.append(job)
        write_shard(job.out / "shard-00000.parquet", pl.read_parquet(job.requests)["request_key"].to_list())


def write_shard(path: Path, keys: list[str], text: str = "Yes.") -> None:
    rows = [(key, text, [5, 6, 2], "end_turn", 9, 3) for key in keys]
    pl.DataFrame(rows, schema=SHARD_SCHEMA, orient="row").write_parquet(path)


def batch(*keys: str) -> pl.DataFrame:
    return pl.DataFrame({"request_key": keys, "messages": [messages(key) for key in keys], "sample": [0] * len(keys)})


def teacher(declare: Declare, model: Path, worker: Worker, *settings: str) -> LocalTeacher:
    lines = [
        "prompts: {source: {jsonl: rows.jsonl}, prompt: '{{ q }}'}",
        "teacher:",
        "  provider: transformers",
        f"  model: {model}",
        *(f"  {setting}" for setting in settings),
    ]
    return LocalTeacher(declare("\n".join(lines)), worker)


def test_one_worker_start_answers_all_claimed_batches(declare: Declare, tiny_model: Path):
    worker, desk = Worker(), DeskStub()
    local = teacher(declare, tiny_model, worker, "batch_size: 7", "batch_tokens: 900", "engine: vllm")

    unanswered = local.answer(iter([batch("a", "b"), batch("c")]), desk)

    assert len(unanswered) == 0
    [job] = worker.jobs
    assert (job.engine, job.batch_size, job.batch_tokens) == ("vllm", 7, 900)
    assert desk.keys == ["a", "b", "c"]
    assert not list(job.out.glob("shard-*"))


def test_where_nothing_is_claimed_no_worker_starts(declare: Declare, tiny_model: Path):
    worker, desk = Worker(), DeskStub()
    teacher(declare, tiny_model, worker).answer(iter([]), desk)
    assert (worker.jobs, desk.answers) == ([], [])


def test_what_a_killed_run_left_is_taken_over_before_anything_is_claimed(declare: Declare, tiny_model: Path):
    worker, desk = Worker(), DeskStub()
    local = teacher(declare, tiny_model, worker)
    local.answer(iter([batch("first")]), desk)
    [job] = worker.jobs
    write_shard(job.out / "shard-00003.parquet", ["a", "b"], text="Left behind.")
    claimed_after: list[list[str]] = []

    def claims() -> Iterator[pl.DataFrame]:
        claimed_after.append(desk.keys)
        yield batch("a", "b", "c")

    local.answer(claims(), desk)

    assert claimed_after == [["first", "a", "b"]]
    assert desk.keys == ["first", "a", "b", "c"]
    assert pl.read_parquet(worker.jobs[1].requests)["request_key"].to_list() == ["c"]
    assert {answer.text for answer in desk.answers if answer.request_key in "ab"} == {"Left behind."}


def test_the_engine_is_recorded_and_is_no_part_of_the_identity(
    declare: Declare, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engines, "version", {"vllm": "0.33.0", "transformers": "5.24.0"}.__getitem__)
    one, other = (teacher(declare, tiny_model, Worker(), f"engine: {name}") for name in ("transformers", "vllm"))
    assert (one.version, other.version) == ("transformers 5.24.0", "vllm 0.33.0")
    assert one.identity == other.identity
    other.check()


def test_a_missing_engine_is_told_before_anything_is_claimed(declare: Declare, tiny_model: Path):
    local = teacher(declare, tiny_model, Worker(), "engine: vllm")
    with pytest.raises(TeacherError, match=r"teacher.engine: vllm needs the package vllm; .* or leave engine out"):
        local.check()


def test_requests_are_written_one_claimed_batch_at_a_time(tmp_path: Path):
    path = tmp_path / "requests.parquet"

    def claims() -> Iterator[pl.DataFrame]:
        yield batch("a", "b")
        assert not path.exists(), "seen before it is whole"
        yield batch("c")
        yield batch("d", "e")

    assert write_requests(path, claims(), ["c", "e"]) == 3
    assert pl.read_parquet(path).equals(batch("a", "b", "d").drop("sample"))
    assert pq.ParquetFile(path).num_row_groups >= 2


def test_an_interrupted_claim_leaves_the_last_whole_file(tmp_path: Path):
    path = tmp_path / "requests.parquet"
    write_requests(path, iter([batch("old")]), [])

    def claims() -> Iterator[pl.DataFrame]:
        yield batch("new")
        raise TeacherError("the budget is spent")

    with pytest.raises(TeacherError):
        write_requests(path, claims(), [])
    assert pl.read_parquet(path)["request_key"].to_list() == ["old"]
    assert [file.name for file in tmp_path.iterdir()] == ["requests.parquet"]
