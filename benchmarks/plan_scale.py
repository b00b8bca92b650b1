"""`distill plan` with 1 % of the prompts edited, and `distill run` with nothing to do, by number of prompts.

    python benchmarks/plan_scale.py [--prompts 10000 100000 1000000] [--partitions 200] [--source parquet|python|jsonl]

Each command runs as a process of its own; seconds are elapsed and of the processor, memory is the peak of the process.
All prompts are answered beforehand, straight in the response store; nothing is asked of anybody.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from distill_dagster.project import Distillation

DEFS = """type: distill_dagster.Distillation
attributes:
  prompts:
    source: {source}
    prompt: "{{{{ question }}}}"
    system: Be brief.
    id: number
    partition: {{by: topic}}
  teacher: {{provider: anthropic, model: claude-haiku-4-5, max_tokens: 300}}
{curation}"""
NO_DUPLICATES = "  curation: {drop: []}\n"
SOURCES = {"parquet": "{parquet: rows.parquet}", "python": "{python: corpus.rows}", "jsonl": "{jsonl: rows.jsonl}"}
CORPUS = """from pathlib import Path

import polars as pl


def rows():
    return pl.read_parquet(Path(__file__).with_name("rows.parquet"))
"""
EDITED_SHARE = 100
COLUMNS = ("request_key", "provider", "model", "identity", "status", "text", "content", "input_tokens", "output_tokens",
           "cost_microusd", "transport", "client_version", "created_at")  # fmt: skip


class Measured(NamedTuple):
    """One command."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    output: str


def questions(prompts: int, partitions: int, *, edited: bool) -> pl.DataFrame:
    """number, topic, question; every hundredth question is another one where `edited`."""
    number = pl.int_range(prompts, eager=True)
    base = pl.DataFrame({"number": number}).with_columns(
        topic=pl.format("topic {}", pl.col("number") % partitions),
        question=pl.format("Question {}: what should a reader know about it? ", "number") + "more words " * 12,
    )
    is_edited = (pl.col("number") // partitions) % EDITED_SHARE == 7 if edited else pl.lit(False)
    return base.with_columns(question=pl.when(is_edited).then(pl.col("question") + "?").otherwise("question"))


def write_rows(folder: Path, prompts: int, partitions: int, edited: bool) -> None:
    """As every kind of source reads them."""
    rows = questions(prompts, partitions, edited=edited)
    rows.write_parquet(folder / "rows.parquet")
    rows.write_ndjson(folder / "rows.jsonl")


def fill_store(root: Path) -> None:
    """An answer to every prompt of the source."""
    from distill_dagster.project import find_project
    from distill_dagster.prompts.build import build_prompts

    distillation = find_project(str(root)).distillation("bench")
    store_answers(distillation, (placed.fresh for placed in build_prompts(distillation).placed.values()))


def store_answers(distillation: "Distillation", prompts: Iterable[pl.DataFrame]) -> None:
    """An answer to every prompt (column messages), straight in the response store."""
    from distill_dagster.teachers.outputs import make_teacher
    from distill_dagster.teachers.store.responses import ResponseStore
    from distill_dagster.worker_process import no_launch

    identity = make_teacher(distillation, no_launch).identity
    ResponseStore(distillation.project.store_url).engine.dispose()
    marks = ", ".join("?" * len(COLUMNS))
    insert = f"INSERT OR IGNORE INTO responses ({', '.join(COLUMNS)}) VALUES ({marks})"
    with sqlite3.connect(distillation.project.home / "responses.sqlite") as connection:
        for chunk in prompts:
            asked = chunk.select("messages", sample=pl.lit(0, dtype=pl.Int32))
            keys = identity.request_keys(asked)
            connection.executemany(insert, _answers(keys, identity.digest))
    connection.close()


def _answers(keys: pl.Series, identity: str) -> Iterator[tuple[object, ...]]:
    text = "An answer of a few words, as they are. " * 6
    content = json.dumps([{"type": "text", "text": text}])
    for key in keys:
        yield (key, "anthropic", "claude-haiku-4-5", identity, "answered", text, content, 60, 70, 400, "messages", "0",
               "2026-01-01T00:00:00+00:00")  # fmt: skip


def run(root: Path, *arguments: str, codes: Sequence[int] = (0,)) -> Measured:
    """Runs `distill` and waits; its output is that of either stream. Exits where the code is none of `codes`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    environment |= {"PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(root / "dagster")}
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        command = [sys.executable, "-m", "distill_dagster.cli", "--project", str(root), *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        output.seek(0)
        text = output.read().decode()
    if os.waitstatus_to_exitcode(status) not in codes:
        raise SystemExit(f"distill {' '.join(arguments)} ended with {status}:\n{text}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text)


def apart(work: Callable[..., None], *arguments: object) -> None:
    """In a process of its own: Linux counts what a parent held into the peak of its children."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(work, *arguments).result()


def measure(prompts: int, partitions: int, source: str, folder: Path) -> None:
    """Prints a line for each command."""
    assets = folder / "assets" / "bench"
    assets.mkdir(parents=True)
    (assets / "defs.yaml").write_text(DEFS.format(source=SOURCES[source], curation=NO_DUPLICATES), encoding="utf-8")
    (assets / "corpus.py").write_text(CORPUS, encoding="utf-8")
    apart(write_rows, assets, prompts, partitions, False)
    apart(fill_store, folder)
    made = run(folder, "run", "bench")
    apart(write_rows, assets, prompts, partitions, True)
    planned = run(folder, "plan", "bench", "--json")
    plan = json.loads(planned.output)
    apart(write_rows, assets, prompts, partitions, False)
    idle = run(folder, "run", "bench")
    if "nothing to do" not in idle.output:
        raise SystemExit(idle.output)
    found = f"{plan['rows']['changed']:,} changed rows, {plan['calls']['needed']:,} calls"
    for name, one in (("first run", made), (f"plan ({found})", planned), ("run, nothing due", idle)):
        spent = f"{one.seconds:7.1f} s  {one.cpu_seconds:7.1f} s cpu  {one.peak_mib:7.0f} MiB"
        print(f"{prompts:>9,} prompts  {spent}  {name}", flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--partitions", type=int, default=200)
    parser.add_argument("--source", choices=sorted(SOURCES), default="parquet")
    parser.add_argument("--keep", type=Path, help="Leave the last project there.")
    options = parser.parse_args()
    for prompts in options.prompts:
        with tempfile.TemporaryDirectory() as folder:
            measure(prompts, options.partitions, options.source, Path(folder))
            if options.keep:
                shutil.copytree(folder, options.keep, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
