"""Captures the teacher's distributions for our own trainer, once, and says how long that took.

    python -m benchmarks.training_rivals.capture WORK PRECISION METHOD DRAW_SETS OUT

The teacher computes in float32 for fp32 runs and in bfloat16 for bf16 runs, and reads the student's prompt, as the
rivals' teachers do. Seconds include loading it and writing the shards. Leaves in OUT: the shards, identity.json and
rows.parquet, which says where the sequence of each training row lies.
"""

import json
import sys
import time
from pathlib import Path
from typing import Literal, cast

import polars as pl
import torch

from benchmarks.training_rivals.setting import TAIL_DRAWS, TEACHER, THREADS, TOP_K
from distill_dagster.jobs import CaptureJob, ModelRef
from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.lineage.model_digest import digest_model
from distill_dagster.logits.capture import run_capture
from distill_dagster.logits.shards import read_keys
from distill_dagster.progress_file import ProgressWriter

BATCH_TOKENS = 4096
DRAWS = 50


def make_identity(dtype: str, method: Literal["topk", "sample"], draw_sets: int) -> CaptureIdentity:
    """What is captured: the most likely tokens and draws from the others, or 50 draws for each epoch."""
    model = digest_model(TEACHER)
    kept = {"k": TOP_K, "draws": TAIL_DRAWS} if method == "topk" else {"draws": DRAWS, "draw_sets": draw_sets}
    return CaptureIdentity.model_validate(
        {
            "method": method,
            "model": model.weights,
            "tokenizer": model.tokenizer,
            "template": model.template,
            "dtype": dtype,
            **kept,
        }
    )


def write_sequences(work: Path, path: Path) -> None:
    """The training rows as a capture job reads them."""
    completion = pl.col("input_ids").list.slice(pl.col("prompt_tokens"))
    rows = pl.read_parquet(work / "rows.parquet").with_columns(completion_ids=completion, keep_hidden=pl.lit(False))
    rows.select("request_key", "messages", "completion_ids", "completion", "keep_hidden").write_parquet(path)


def places(out: Path, work: Path) -> pl.DataFrame:
    """Training rows in their order, each with the shard and row of its sequence.

    Raises:
        SystemExit: a row has none.
    """
    keys = [read_keys(shard).with_columns(shard=pl.lit(shard.name)) for shard in sorted(out.glob("logits-*.parquet"))]
    rows = pl.read_parquet(work / "rows.parquet", columns=["prompt_id", "sample", "request_key"])
    found = rows.join(pl.concat(keys), on="request_key", how="inner", maintain_order="left")
    if found.height != rows.height:
        raise SystemExit(f"{rows.height - found.height} of {rows.height} rows were not captured")
    return found.select("prompt_id", "sample", "request_key", "ids_hash", "shard", "row")


def main() -> None:
    work, precision, method, draw_sets, out = Path(sys.argv[1]), *sys.argv[2:5], Path(sys.argv[5])
    torch.set_num_threads(THREADS)
    out.mkdir(parents=True)
    write_sequences(work, out / "sequences.parquet")
    dtype = cast(Literal["float32", "bfloat16"], "bfloat16" if precision == "bf16" else "float32")
    identity = make_identity(dtype, cast(Literal["topk", "sample"], method), int(draw_sets))
    job = CaptureJob(
        identity=identity,
        model=ModelRef(source=str(TEACHER)),
        dtype=dtype,
        batch_tokens=BATCH_TOKENS,
        sequences=out / "sequences.parquet",
        out=out,
    )
    started = time.perf_counter()
    counts = run_capture(job, ProgressWriter(out / "progress.jsonl"))
    seconds = time.perf_counter() - started
    places(out, work).write_parquet(out / "rows.parquet")
    (out / "identity.json").write_text(identity.model_dump_json(), encoding="utf-8")
    print(json.dumps({"seconds": seconds, **counts}))


if __name__ == "__main__":
    main()
