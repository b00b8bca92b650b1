"""Runs an engine over the open requests; a batch becomes one whole shard, so that a kill loses one batch at most."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import polars as pl

from distill_dagster.jobs import GenerateJob
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.storage import write_file
from distill_dagster.teachers.local.generation import Answer
from distill_dagster.teachers.local.request_queue import Batch, OpenRequests, Queue
from distill_dagster.teachers.local.time_left import Work, seconds_left

STAGE = "teacher"
SHARD_SCHEMA = {
    "request_key": pl.String(),
    "text": pl.String(),
    "token_ids": pl.List(pl.Int32()),
    "stop_reason": pl.String(),
    "input_tokens": pl.Int32(),
    "output_tokens": pl.Int32(),
}


@dataclass(frozen=True)
class Answered:
    """A batch's answers, in the order of its prompts, and the seconds its prompts took to read (0 where unknown)."""

    answers: list[Answer]
    reading_s: float = 0.0


@dataclass(frozen=True)
class Engine:
    """A model ready to answer.

    Attributes:
        queue: all open requests.
        sizes: rows of each batch the queue is cut into.
        answer: answers tokenised prompts, a batch of them.
    """

    queue: Queue
    sizes: Iterable[int]
    answer: Callable[[list[list[int]]], Answered]


Start = Callable[[GenerateJob, OpenRequests], Engine]
"""Loads the model and encodes the requests."""


def answered_keys(folder: Path) -> set[str]:
    """Request keys that shards of an earlier start hold already."""
    shards = sorted(folder.glob("shard-*.parquet"))
    return {key for shard in shards for key in pl.read_parquet(shard, columns=["request_key"])["request_key"]}


def write_shard(folder: Path, request_keys: list[str], answers: list[Answer]) -> Path:
    """Writes one batch under the next free number."""
    frame = pl.DataFrame(
        {
            "request_key": request_keys,
            "text": [answer.text for answer in answers],
            "token_ids": [answer.token_ids for answer in answers],
            "stop_reason": [str(answer.stop_reason) for answer in answers],
            "input_tokens": [answer.input_tokens for answer in answers],
            "output_tokens": [len(answer.token_ids) for answer in answers],
        },
        schema=SHARD_SCHEMA,
    )
    path = folder / f"shard-{max(_shard_numbers(folder), default=-1) + 1:05d}.parquet"
    write_file(path, frame.write_parquet)
    return path


def run_requests(job: GenerateJob, progress: ProgressWriter, start: Start) -> dict[str, Any]:
    """Answers every request of the job that has no shard in `job.out` yet; each batch becomes one.

    Returns:
        Counts and measurements for result.json.
    """
    requests = OpenRequests.of(job.requests, answered_keys(job.out))
    progress.report(STAGE, requests.answered, requests.total, "answers")
    if not requests.count:
        return _result(requests, Work(0, 0), output_tokens=0)
    engine = start(job, requests)
    prompt_tokens = int(engine.queue.lengths.sum())
    done, output_tokens = Work(0, 0), 0
    for batch in engine.queue.batches(engine.sizes):
        answered, work = _answer_batch(engine, batch, job.out)
        done += work
        output_tokens += answered
        left = seconds_left(done, rows=requests.count - done.rows, prompt_tokens=prompt_tokens - done.prompt_tokens)
        progress.report(
            STAGE,
            requests.answered + done.rows,
            requests.total,
            "answers",
            tokens_per_second=round(output_tokens / done.seconds, 1),
            seconds_left=round(left, 3),
        )
    return _result(requests, done, output_tokens=output_tokens)


def _answer_batch(engine: Engine, batch: Batch, out: Path) -> tuple[int, Work]:
    """Writes the answers of one batch; returns how many tokens they have and what they took."""
    began = monotonic()
    found = engine.answer(batch.prompts)
    write_shard(out, batch.request_keys, found.answers)
    prompt_tokens = sum(answer.input_tokens for answer in found.answers)
    work = Work(len(batch.prompts), prompt_tokens, found.reading_s, monotonic() - began - found.reading_s)
    return sum(len(answer.token_ids) for answer in found.answers), work


def _result(requests: OpenRequests, done: Work, *, output_tokens: int) -> dict[str, Any]:
    speed = output_tokens / done.seconds if done.seconds else 0.0
    return {
        "answered": requests.count,
        "reused": requests.answered,
        "output_tokens": output_tokens,
        "measurements": {"seconds": done.seconds, "tokens_per_second": speed},
    }


def _shard_numbers(folder: Path) -> Iterator[int]:
    return (int(path.stem.removeprefix("shard-")) for path in folder.glob("shard-*.parquet"))
