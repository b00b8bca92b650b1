"""What `prompts` and `dataset` take for each prompt, by number of prompts.

    python benchmarks/stage_scale.py [--prompts 10000 100000 1000000] [--partitions 200] [--curation default|none]

Every stage runs as a process of its own, which imports everything first and then times the stage alone. Its memory is
what the process grew by from there to its peak. What 200 partitions cost whatever is in them (files made durable, for
the most part) is measured with one prompt in each, and taken off before dividing by the number of prompts. Answers are
put straight into the response store; nothing is asked of anybody.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.plan_scale import DEFS, NO_DUPLICATES, SOURCES, apart, store_answers  # noqa: E402

STAGES = ("prompts", "prompts, nothing changed", "dataset")
CURATION = {"default": "", "none": NO_DUPLICATES}
VOCABULARY = 20_000
WORDS = 18
SEED = 7
SHORT = 20_000


class Taken(NamedTuple):
    """One stage."""

    seconds: float
    cpu_seconds: float
    grown_mib: float
    peak_mib: float


def write_questions(folder: Path, prompts: int, partitions: int) -> None:
    """rows.parquet: number, topic, question; WORDS random words each, so that few resemble one another."""
    random = np.random.default_rng(SEED)
    words = pl.Series([f"{part}{number:x}" for number, part in enumerate(["word", "term"] * (VOCABULARY // 2))])
    number = pl.int_range(prompts, eager=True)
    drawn = [words.gather(random.integers(0, VOCABULARY, prompts)) for _ in range(WORDS)]
    pl.DataFrame({"number": number}).with_columns(
        topic=pl.format("topic {}", pl.col("number") % partitions),
        question=pl.concat_str([pl.lit("What is known about"), *drawn, pl.lit("?")], separator=" "),
    ).write_parquet(folder / "rows.parquet")


def answer(root: Path) -> None:
    """Puts an answer to every prompt into the store, and makes `teacher_outputs` of them."""
    from distill_dagster.project import find_project
    from distill_dagster.teachers.asking.requests import prompt_chunks
    from distill_dagster.teachers.outputs import build_outputs, make_teacher
    from distill_dagster.worker_process import no_launch

    distillation = find_project(str(root)).distillation("bench")
    names = distillation.files.partitions("prompts")
    store_answers(distillation, (chunk for name in names for chunk in prompt_chunks(distillation, name, ["messages"])))
    build = build_outputs(distillation, names, make_teacher(distillation, no_launch), most_calls=0)
    if build.failed:
        raise SystemExit(next(iter(build.failed.values())))


def make_prompts(root: Path) -> Callable[[], object]:
    """What the asset `prompts` does."""
    from distill_dagster.project import find_project
    from distill_dagster.prompts.build import build_prompts
    from distill_dagster.prompts.store import write_prompts

    distillation = find_project(str(root)).distillation("bench")

    def work() -> None:
        build = build_prompts(distillation)
        for name in build.partitions:
            write_prompts(distillation, name, build.partitions[name])

    return work


def make_dataset(root: Path) -> Callable[[], object]:
    """What the asset `dataset` does."""
    from distill_dagster.dataset.build import build_dataset
    from distill_dagster.project import find_project

    distillation = find_project(str(root)).distillation("bench")
    return lambda: build_dataset(distillation)


def time_stage(stage: str, root: Path) -> None:
    """Runs a stage in this process and prints what it took as JSON."""
    work = make_dataset(root) if stage == "dataset" else make_prompts(root)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    work()
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    grown = (after.ru_maxrss - before.ru_maxrss) / 1024
    print(json.dumps(Taken(seconds, cpu, grown, after.ru_maxrss / 1024)))


def take(stage: str, root: Path) -> Taken:
    """`time_stage` in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / "stage_scale.py"), "--stage", stage, "--root", str(root)]
    return Taken(*json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def measure(prompts: int, partitions: int, curation: str) -> dict[str, Taken]:
    """All stages; where they are short, medians of three new projects."""
    rounds = [_measured(prompts, partitions, curation) for _ in range(3 if prompts <= SHORT else 1)]
    return {
        stage: Taken(*(statistics.median(values) for values in zip(*(one[stage] for one in rounds), strict=True)))
        for stage in STAGES
    }


def _measured(prompts: int, partitions: int, curation: str) -> dict[str, Taken]:
    """All stages of a new project."""
    with tempfile.TemporaryDirectory() as folder:
        root, assets = Path(folder), Path(folder) / "assets" / "bench"
        assets.mkdir(parents=True)
        defs = DEFS.format(source=SOURCES["parquet"], curation=CURATION[curation])
        (assets / "defs.yaml").write_text(defs, encoding="utf-8")
        apart(write_questions, assets, prompts, partitions)
        taken = {stage: take(stage, root) for stage in STAGES[:2]}
        apart(answer, root)
        return taken | {STAGES[2]: take(STAGES[2], root)}


def show(prompts: int, taken: dict[str, Taken], fixed: dict[str, Taken], partitions: int) -> None:
    """A line for each stage."""
    for stage, one in taken.items():
        each = [
            (spent - base) / (prompts - partitions) * 1e6
            for spent, base in ((one.seconds, fixed[stage].seconds), (one.cpu_seconds, fixed[stage].cpu_seconds))
        ]
        spent = f"{one.seconds:7.2f} s {one.cpu_seconds:7.2f} s cpu  {each[0]:6.1f} µs {each[1]:6.1f} µs cpu a prompt"
        print(f"{prompts:>9,}  {spent}  +{one.grown_mib:5.0f} to {one.peak_mib:5.0f} MiB  {stage}", flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--partitions", type=int, default=200)
    parser.add_argument("--curation", choices=sorted(CURATION), default="default")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        time_stage(options.stage, options.root)
        return
    fixed = measure(options.partitions, options.partitions, options.curation)
    for stage, one in fixed.items():
        print(
            f"{options.partitions:>9,}  {one.seconds:7.2f} s {one.cpu_seconds:7.2f} s cpu, whatever the number  {stage}"
        )
    for prompts in options.prompts:
        show(prompts, measure(prompts, options.partitions, options.curation), fixed, options.partitions)


if __name__ == "__main__":
    main()
