"""A `logit` student's job on sequences that a tiny teacher's capture really made."""

from pathlib import Path

import polars as pl

from distill_dagster.jobs import CaptureJob, LogitsInput, ModelRef, TrainJob
from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.logits.capture import run_capture
from distill_dagster.logits.shards import read_keys
from distill_dagster.logits.sparse import ids_hash
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.teachers.local.chat_model import end_of_turn_id, load_chat_model
from tests.worker_jobs import dataset_rows, train_job, write_dataset

TOP_K = CaptureIdentity(method="topk", k=8, temperatures=(1.0, 2.0), model="m", tokenizer="t", template="c", dtype="f")


def logit_job(
    teacher: Path,
    folder: Path,
    *,
    train: int = 12,
    validation: int = 4,
    identity: CaptureIdentity = TOP_K,
    keep_hidden: bool = True,
    student: Path | None = None,
    **changes: object,
) -> TrainJob:
    """Captures the rows of a small dataset, and asks for a short training in float32 on them."""
    chat = load_chat_model(ModelRef(source=str(teacher)), "float32")
    frames = {"train": dataset_rows(train), "validation": dataset_rows(validation, first=100)}
    for split, frame in frames.items():
        ids = [
            [*chat.tokenizer.encode(text, add_special_tokens=False), end_of_turn_id(chat.tokenizer)]
            for text in frame["completion"]
        ]
        frames[split] = frame.with_columns(completion_ids=pl.Series(ids, dtype=pl.List(pl.Int32)))
    shards = folder / "shards"
    places = capture(teacher, shards, frames, identity, keep_hidden=keep_hidden)
    places.write_parquet(folder / "places.parquet")
    return train_job(
        student or teacher,
        write_dataset(folder / "dataset", **frames),
        folder / "out",
        **{
            "teacher": ModelRef(source=str(teacher)),
            "objective": "logit",
            "logits": LogitsInput(identity=identity, rows=folder / "places.parquet", shards=shards),
        }
        | changes,
    )


def capture(
    teacher: Path, shards: Path, frames: dict[str, pl.DataFrame], identity: CaptureIdentity, *, keep_hidden: bool
) -> pl.DataFrame:
    """Captures all rows into a folder; returns where each lies."""
    shards.mkdir(parents=True)
    rows = pl.concat(
        frame.with_columns(request_key="prompt_id", keep_hidden=pl.lit(keep_hidden and split == "validation"))
        for split, frame in frames.items()
    )
    sequences = rows.select("request_key", "messages", "completion_ids", "completion", "keep_hidden")
    sequences.write_parquet(shards / "wanted.parquet")
    job = CaptureJob(
        identity=identity,
        model=ModelRef(source=str(teacher)),
        dtype="float32",
        batch_tokens=400,
        sequences=shards / "wanted.parquet",
        out=shards,
    )
    run_capture(job, ProgressWriter(shards / "progress.jsonl"))
    keys = pl.concat(
        read_keys(path).with_columns(shard=pl.lit(path.name)) for path in sorted(shards.glob("logits-*.parquet"))
    )
    hashes = pl.Series([ids_hash(ids) for ids in rows["completion_ids"]], dtype=pl.String)
    wanted = rows.select("prompt_id", "sample", "request_key").with_columns(ids_hash=hashes)
    return wanted.join(keys, on=["request_key", "ids_hash"], how="left")
