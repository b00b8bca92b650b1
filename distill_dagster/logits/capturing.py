"""The graph's half of a capture: the worker's job, and taking over the shards that it finishes."""

import os
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from distill_dagster.errors import LogitsError
from distill_dagster.jobs import CaptureJob, LogprobServer, ModelRef
from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.lineage.hashing import digest
from distill_dagster.lineage.model_folder import find_model
from distill_dagster.logits.shards import check_identity, read_keys
from distill_dagster.project import Distillation
from distill_dagster.storage import publish_file, read_json, write_file, write_json

SEQUENCES_FILE = "sequences.parquet"
HEAD_FILES = ("head.safetensors", "head.json")
SEQUENCES_SCHEMA = pa.schema(
    {
        "request_key": pa.string(),
        "messages": pa.string(),
        "completion_ids": pa.list_(pa.int32()),
        "completion": pa.string(),
        "keep_hidden": pa.bool_(),
    }
)
# A token of English has about four characters; for answers that are known as text only.
CHARACTERS_PER_TOKEN = 4


def write_sequences(path: Path, parts: Iterable[pl.DataFrame]) -> tuple[int, int]:
    """Writes what is to be captured for the worker, a partition in memory at a time.

    Args:
        path: the job's sequences file.
        parts: missing rows of `wanted_completions`, each request key once.

    Returns:
        How many completions, and tokens in them (about, where only their text is known).
    """
    sequences = tokens = 0

    def write(aside: Path) -> None:
        nonlocal sequences, tokens
        with pq.ParquetWriter(aside, SEQUENCES_SCHEMA) as writer:
            for part in parts:
                sequences += len(part)
                about = pl.coalesce("tokens", pl.col("completion").str.len_chars() // CHARACTERS_PER_TOKEN)
                tokens += int(part.select(about.sum()).item())
                rows = part.with_columns(keep_hidden="has_hidden").select(SEQUENCES_SCHEMA.names)
                writer.write_table(rows.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(SEQUENCES_SCHEMA))

    write_file(path, write)
    return sequences, tokens


def capture_job(distillation: Distillation, identity: CaptureIdentity, work: Path) -> CaptureJob:
    """The worker's job for the sequences in its folder."""
    spec, teacher = distillation.spec.logits, distillation.spec.teacher
    server = None
    if not teacher.is_local:
        assert teacher.base_url is not None
        server = LogprobServer(base_url=teacher.base_url, model=teacher.model, concurrency=teacher.concurrency)
    folder = find_model(distillation, teacher.model if teacher.is_local else spec.tokenizer or teacher.model)
    return CaptureJob(
        identity=identity,
        model=ModelRef(source=str(folder)),
        dtype=teacher.dtype,
        server=server,
        batch_tokens=spec.batch_tokens,
        sequences=work / SEQUENCES_FILE,
        out=work,
    )


def add_seconds(distillation: Distillation, identity: CaptureIdentity, seconds: float) -> None:
    """Adds to the time that all captures of one identity took."""
    total = captured_seconds(distillation, identity) + seconds
    write_json(_measurements(distillation, identity), {"seconds": total})


def captured_seconds(distillation: Distillation, identity: CaptureIdentity) -> float:
    """What all captures of one identity took together, as far as it is remembered."""
    path = _measurements(distillation, identity)
    return float(read_json(path)["seconds"]) if path.is_file() else 0.0


def _measurements(distillation: Distillation, identity: CaptureIdentity) -> Path:
    return distillation.files.work("capture", "measured") / f"{identity.digest[:32]}.json"


def take_over(work: Path, shards: Path, identity: CaptureIdentity) -> int:
    """Moves what the worker has finished to the shards, under the name of what it holds; returns how many files.

    The teacher's head goes first: where a shard with hidden states is, its head is. What was torn by a full disk is
    removed; its completions count as missing.
    """
    shards.mkdir(parents=True, exist_ok=True)
    finished = sorted(work.glob("logits-*.parquet"))
    if finished and not all((shards / name).is_file() for name in HEAD_FILES):
        for name in HEAD_FILES:
            if (work / name).is_file():
                publish_file(work / name, shards / name)
    for path in finished:
        try:
            check_identity(path, identity)
            keys = read_keys(path)
        except LogitsError:
            os.unlink(path)
            continue
        held = keys.select("request_key", "ids_hash", "has_hidden").rows()
        publish_file(path, shards / f"{digest([list(row) for row in held])[:32]}.parquet")
    return len(finished)
