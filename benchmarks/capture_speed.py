"""Completion tokens a second of capturing logits, against a plain teacher forward over the same batches.

    python benchmarks/capture_speed.py [--rounds 5] [--rows 120] [--threads 2] [--dtype bfloat16]

The demo's teacher reads the demo's prompts, few-shot examples included, with the human references as completions.
`plain` is a forward pass over the batches of `capture, apart`, padded on the right, with an attention mask and logits
at the completion positions alone, in chunks; their argmax is taken and nothing is kept. `capture` and `capture, apart`
are `run_capture` to the last shard on disk; what all prompts begin with is read once a batch by the one and with every
row by the other. Each run is a process of its own, in turn. Loading the model and encoding are nobody's time, and each
has read some rows before the clock starts. Medians with ranges; ratios are those within a round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
MODEL = ROOT / ".models" / "smollm2-135m-instruct"
BATCH_TOKENS = 8192
K = 32
WARM_UP_ROWS = 8


def write_rows(path: Path, count: int) -> None:
    """The job's `sequences`: prompts of the demo, in its order, each with its reference (`count` 0: all)."""
    import polars as pl

    from distill_dagster.jobs import ModelRef
    from distill_dagster.project import find_project
    from distill_dagster.prompts.build import build_prompts
    from distill_dagster.teachers.local.chat_model import end_of_turn_id, load_chat_format

    chat = load_chat_format(ModelRef(source=str(MODEL)))
    partitions = build_prompts(find_project(ROOT).distillation("faq"), reuse=False).partitions
    prompts = pl.concat([partition.frame for partition in partitions.values()])
    prompts = prompts.sort("prompt_id").head(count or len(prompts))
    stop = end_of_turn_id(chat.tokenizer)
    ids = [[*chat.tokenizer.encode(text, add_special_tokens=False), stop] for text in prompts["reference"]]
    sequences = prompts.select(pl.col("prompt_id").alias("request_key"), "messages").with_columns(
        pl.Series("completion_ids", ids, dtype=pl.List(pl.Int32)),
        pl.lit("").alias("completion"),
        pl.lit(False).alias("keep_hidden"),
    )
    sequences.write_parquet(path)


def capture_job(sequences: Path, out: Path, dtype: str) -> Any:
    from distill_dagster.jobs import CaptureJob, ModelRef
    from distill_dagster.lineage.capture_identity import CaptureIdentity

    out.mkdir(parents=True, exist_ok=True)
    return CaptureJob(
        identity=CaptureIdentity(method="topk", k=K, model="m", tokenizer="t", template="c", dtype=dtype),
        model=ModelRef(source=str(MODEL)),
        dtype=dtype,
        batch_tokens=BATCH_TOKENS,
        sequences=sequences,
        out=out,
    )


def plain(sequences: Path, _folder: Path, dtype: str) -> dict[str, float]:
    """The forward pass that any capture needs at least, without sharing anything between rows."""
    import torch

    from distill_dagster.jobs import ModelRef
    from distill_dagster.logits.capture import START_TOKENS
    from distill_dagster.logits.capture_queue import Reader, read_queue
    from distill_dagster.process import peak_memory_bytes
    from distill_dagster.teachers.local.chat_model import load_chat_model

    chat = load_chat_model(ModelRef(source=str(MODEL)), dtype)
    model: Any = chat.model
    queue = read_queue(sequences, Reader(chat.encode, lambda _text: [], chat.context), set())

    def read(items: list[Any]) -> int:
        width = max(len(item.prompt) + len(item.completion) for item in items)
        input_ids = torch.zeros(len(items), width, dtype=torch.long)
        mask, before = torch.zeros_like(input_ids), torch.zeros_like(input_ids, dtype=torch.bool)
        for row, item in enumerate(items):
            end = len(item.prompt) + len(item.completion)
            input_ids[row, :end] = torch.tensor(item.prompt + item.completion)
            mask[row, :end] = 1
            before[row, len(item.prompt) - 1 : end - 1] = True
        hidden = model.base_model(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state[before]
        for start in range(0, len(hidden), 128):
            model.lm_head(hidden[start : start + 128]).float().argmax(-1)
        return len(hidden)

    with torch.inference_mode():
        batches = list(queue.batches(BATCH_TOKENS, share=False, start_tokens=START_TOKENS[chat.device.type]))
        read(batches[-1][:WARM_UP_ROWS])
        began = time.perf_counter()
        tokens = sum(read(items) for items in batches)
        seconds = time.perf_counter() - began
    return {"tokens_per_second": tokens / seconds, "peak_memory_bytes": peak_memory_bytes()}


def capture(sequences: Path, folder: Path, dtype: str, *, share: bool = True) -> dict[str, float]:
    """`run_capture`, after one over a few of the rows."""
    import polars as pl

    from distill_dagster.logits.capture import run_capture
    from distill_dagster.progress_file import ProgressWriter

    first = folder / "first.parquet"
    pl.read_parquet(sequences).head(WARM_UP_ROWS).write_parquet(first)
    for source, name in ((first, "first"), (sequences, "all")):
        job = capture_job(source, folder / name, dtype)
        result = run_capture(job, ProgressWriter(job.out / "progress.jsonl"), share=share)
    return {**result["measurements"], "bytes_per_token": result["bytes"] / result["tokens"]}


CONTESTANTS: dict[str, Callable[[Path, Path, str], dict[str, float]]] = {
    "plain": plain,
    "capture": capture,
    "capture, apart": lambda sequences, folder, dtype: capture(sequences, folder, dtype, share=False),
}


def _measure(name: str, options: argparse.Namespace, sequences: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--contestant", name, "--sequences", str(sequences), "--dtype", options.dtype]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _range(values: list[float], digits: int = 0) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=120, help="0: all of the demo's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--contestant", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    parser.add_argument("--sequences", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not MODEL.is_dir():
        parser.error(f"{MODEL} is not there; `make demo` puts the demo's model into it")
    with tempfile.TemporaryDirectory() as folder:
        if options.contestant:
            print(json.dumps(CONTESTANTS[options.contestant](options.sequences, Path(folder), options.dtype)))
            return
        sequences = Path(folder) / "sequences.parquet"
        write_rows(sequences, options.rows)
        seen: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
        for _ in range(options.rounds):
            for name in CONTESTANTS:
                seen[name].append(_measure(name, options, sequences))
    print(f"{options.dtype}, {options.threads} threads, {options.rounds} rounds")
    for name, runs in seen.items():
        ratios = [
            run["tokens_per_second"] / base["tokens_per_second"] for run, base in zip(runs, seen["plain"], strict=True)
        ]
        speed = _range([run["tokens_per_second"] for run in runs])
        memory = _range([run["peak_memory_bytes"] / 1e9 for run in runs], 2)
        print(f"{name:15} {speed} completion tokens/s, {_range(ratios, 2)} x plain, peak {memory} GB")
    print(f"on disk: {_range([run['bytes_per_token'] for run in seen['capture']], 1)} bytes a token")


if __name__ == "__main__":
    main()
