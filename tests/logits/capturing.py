"""Sequences of a tiny teacher to capture, and what a plain forward pass says of them."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch

from distill_dagster.jobs import CaptureJob, ModelRef
from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.logits.shards import read_sequences
from distill_dagster.logits.sparse import Sequence, ids_hash
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.teachers.local.chat_model import ChatModel, end_of_turn_id, load_chat_model

TOP_K = CaptureIdentity(method="topk", k=5, draws=60, model="m", tokenizer="t", template="c", dtype="float32")
SAMPLE = CaptureIdentity(
    method="sample", draws=20, draw_sets=2, model="m", tokenizer="t", template="c", dtype="float32"
)
SYSTEM = "Answer in one short sentence, please."


def load_tiny(folder: Path) -> ChatModel:
    """The teacher in float32."""
    return load_chat_model(ModelRef(source=str(folder)), "float32")


def sequence_rows(chat: ChatModel, count: int = 7, *, keep_hidden: Callable[[int], bool] = lambda _n: False):
    """Completions of different lengths; the conversations share their system prompt."""
    rows = []
    for number in range(count):
        text = "It is so. " * (1 + number % 3) + str(number)
        ids = [*chat.tokenizer.encode(text, add_special_tokens=False), end_of_turn_id(chat.tokenizer)]
        question = {"role": "user", "content": f"Question {number}" + "?" * (number % 4)}
        messages = [{"role": "system", "content": SYSTEM}, question]
        rows.append((f"key{number}", json.dumps(messages), ids, text, keep_hidden(number)))
    return rows


def write_sequences(path: Path, rows: list[tuple]) -> Path:
    """A job's `sequences`."""
    schema = {
        "request_key": pl.String(),
        "messages": pl.String(),
        "completion_ids": pl.List(pl.Int32()),
        "completion": pl.String(),
        "keep_hidden": pl.Boolean(),
    }
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(path)
    return path


def capture_job(model: Path, sequences: Path, out: Path, identity: CaptureIdentity = TOP_K, **changes) -> CaptureJob:
    """A job whose batches hold two or three of the sequences."""
    job = CaptureJob(
        identity=identity,
        model=ModelRef(source=str(model)),
        dtype="float32",
        batch_tokens=400,
        sequences=sequences,
        out=out,
    )
    return job.model_copy(update=changes)


def progress_of(job: CaptureJob) -> ProgressWriter:
    """Where the job's progress goes."""
    return ProgressWriter(job.out / "progress.jsonl")


def captured(job: CaptureJob) -> dict[str, Sequence]:
    """All captured sequences by request key."""
    paths = sorted(job.out.glob("logits-*.parquet"))
    return {one.request_key: one for path in paths for one in read_sequences(path, job.identity)}


@torch.inference_mode()
def plain_logits(chat: ChatModel, row: tuple) -> torch.Tensor:
    """[tokens, vocabulary] float64 logits of one row, read alone from beginning to end."""
    prompt, completion = chat.encode(json.loads(row[1])), row[2]
    logits = chat.model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits[:, : len(chat.tokenizer)].double()


def key_of(row: tuple) -> tuple[str, str]:
    """Request key and hash of ids."""
    return row[0], ids_hash(row[2])
