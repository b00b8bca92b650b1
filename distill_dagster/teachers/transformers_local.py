"""The local teacher: answers a file of requests with a Hugging Face model, inside the worker."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import torch

from distill_dagster.errors import TeacherError
from distill_dagster.jobs import GenerateJob
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.storage import write_file
from distill_dagster.teachers.chat_model import ChatModel, load_chat_model
from distill_dagster.teachers.generation import Answer, generate

STAGE = "teacher"
SHARD_SCHEMA = {
    "request_key": pl.String(),
    "text": pl.String(),
    "token_ids": pl.List(pl.Int32()),
    "stop_reason": pl.String(),
    "input_tokens": pl.Int32(),
    "output_tokens": pl.Int32(),
}
_ENCODE_ROWS = 1024


def run_generate(job: GenerateJob, progress: ProgressWriter) -> dict[str, Any]:
    """Answers every request that has no answer in `job.out` yet; each finished batch becomes one whole shard.

    Requests are batched by (length, request key), longest first, so that running out of memory shows at once and
    equal requests are batched equally in every run.

    Returns:
        Counts and measurements for result.json.

    Raises:
        TeacherError: the model cannot be loaded or used, or a batch does not fit into memory.
    """
    requests = pl.read_parquet(job.requests, columns=["request_key", "messages"]).unique("request_key")
    answered = answered_keys(job.out)
    open_requests = requests.filter(~pl.col("request_key").is_in(list(answered)))
    done = requests.height - open_requests.height
    progress.report(STAGE, done, requests.height, "answers")
    if open_requests.is_empty():
        return _result(answered=0, reused=done, output_tokens=0, seconds=0.0)
    chat = load_chat_model(job.model, job.dtype)
    queue = encode_requests(chat, open_requests)
    started, tokens = time.monotonic(), 0
    for batch in queue.iter_slices(job.batch_size):
        answers = _answer(chat, batch["input_ids"].to_list(), job)
        write_shard(job.out, batch["request_key"].to_list(), answers)
        done += batch.height
        tokens += sum(len(answer.token_ids) for answer in answers)
        speed = tokens / (time.monotonic() - started)
        progress.report(STAGE, done, requests.height, "answers", tokens_per_second=round(speed, 1))
    return _result(
        answered=open_requests.height,
        reused=requests.height - open_requests.height,
        output_tokens=tokens,
        seconds=time.monotonic() - started,
    )


def encode_requests(chat: ChatModel, requests: pl.DataFrame) -> pl.DataFrame:
    """request_key and input_ids, in the order in which they are answered."""
    parts = [
        pl.DataFrame(
            {
                "request_key": part["request_key"],
                "input_ids": pl.Series(
                    [chat.encode(json.loads(text)) for text in part["messages"]], dtype=pl.List(pl.Int32)
                ),
            }
        )
        for part in requests.iter_slices(_ENCODE_ROWS)
    ]
    return pl.concat(parts).sort(pl.col("input_ids").list.len(), "request_key", descending=[True, False])


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


def _shard_numbers(folder: Path) -> Iterator[int]:
    return (int(path.stem.removeprefix("shard-")) for path in folder.glob("shard-*.parquet"))


def _answer(chat: ChatModel, prompts: list[list[int]], job: GenerateJob) -> list[Answer]:
    try:
        return generate(chat, prompts, max_tokens=job.max_tokens, stop_sequences=job.stop_sequences)
    except torch.OutOfMemoryError:
        raise TeacherError(
            f"{job.model.source}: out of memory with {len(prompts)} prompts at once; lower teacher.batch_size"
        ) from None


def _result(*, answered: int, reused: int, output_tokens: int, seconds: float) -> dict[str, Any]:
    speed = output_tokens / seconds if seconds else 0.0
    return {
        "answered": answered,
        "reused": reused,
        "output_tokens": output_tokens,
        "measurements": {"seconds": seconds, "tokens_per_second": speed},
    }
