"""Answers a second and CPU per answer of the Anthropic teacher, against bare loops over the same SDK and server.

    python benchmarks/teacher_throughput.py [--requests 5000] [--rounds 3]

Every contestant runs in a process of its own, one after the other, `rounds` times in turn, against one local server
(another process) that answers after 50 ms. The bare loops keep answers in memory; distill_dagster makes each durable in
SQLite (WAL, fsync at each commit) before it counts, under a lease and a budget. Ratios are those of medians.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
CONCURRENCY = 64
LATENCY_MS = 50
MODEL = "claude-haiku-4-5"
SYSTEM = "You answer in one or two sentences, plainly, without repeating the question."
DEFS = f"""type: distill_dagster.Distillation
attributes:
  prompts:
    source: {{jsonl: rows.jsonl}}
    prompt: "{{{{ question }}}}"
    system: {SYSTEM}
  teacher: {{provider: anthropic, model: {MODEL}, max_tokens: 300, concurrency: {CONCURRENCY}, budget_usd: 1000}}
"""


def question(number: int) -> str:
    """A prompt of about 150 characters."""
    return (
        f"Question {number}: what should a reader know about item {number} before using it for the first time? "
        + "x" * 50
    )


def bare(count: int, *, aiohttp: bool) -> float:
    """Seconds of the loop everybody writes first: a semaphore around `messages.create`."""
    import anthropic

    async def loop() -> float:
        http_client = anthropic.DefaultAioHttpClient() if aiohttp else None
        async with anthropic.AsyncAnthropic(http_client=http_client) as client:
            gate = asyncio.Semaphore(CONCURRENCY)

            async def one(number: int) -> object:
                async with gate:
                    return await client.messages.create(
                        model=MODEL,
                        max_tokens=300,
                        system=SYSTEM,
                        messages=[{"role": "user", "content": question(number)}],
                    )

            started = time.perf_counter()
            answers = await asyncio.gather(*(one(number) for number in range(count)))
            assert len(answers) == count
            return time.perf_counter() - started

    return asyncio.run(loop())


def ours(count: int) -> float:
    """Seconds from prompts on disk to the last durable answer."""
    from distill_dagster.project import find_project
    from distill_dagster.prompts.build import build_prompts
    from distill_dagster.prompts.store import write_prompts
    from distill_dagster.teachers.asking.obtaining import Purse, obtain
    from distill_dagster.teachers.asking.samples import FirstSamples
    from distill_dagster.teachers.providers import make_teacher
    from distill_dagster.teachers.store.responses import ResponseStore
    from distill_dagster.worker_process import no_launch

    with tempfile.TemporaryDirectory() as folder:
        assets = Path(folder) / "assets" / "bench"
        assets.mkdir(parents=True)
        (assets / "defs.yaml").write_text(DEFS, encoding="utf-8")
        rows = "".join(json.dumps({"question": question(number)}) + "\n" for number in range(count))
        (assets / "rows.jsonl").write_text(rows, encoding="utf-8")
        distillation = find_project(folder).distillation("bench")
        write_prompts(distillation, "all", build_prompts(distillation).partitions["all"])
        teacher = make_teacher(distillation, no_launch)
        store = ResponseStore(distillation.project.store_url)
        before = _cpu_s()
        started = time.perf_counter()
        asked = obtain(store, teacher, FirstSamples(distillation, ["all"], teacher.identity), Purse(distillation))
        seconds = time.perf_counter() - started
        assert asked.answered == store.count() == count
        _ours_cpu.append(_cpu_s() - before)
        return seconds


_ours_cpu: list[float] = []
CONTESTANTS: dict[str, Callable[[int], float]] = {
    "bare loop, default client": lambda count: bare(count, aiohttp=False),
    "bare loop, aiohttp client": lambda count: bare(count, aiohttp=True),
    "distill_dagster": ours,
}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _run_one(name: str, count: int) -> None:
    import anthropic  # noqa: F401  (its import is nobody's cost per request)

    before = _cpu_s()
    seconds = CONTESTANTS[name](count)
    cpu = _ours_cpu[0] if _ours_cpu else _cpu_s() - before
    print(json.dumps({"per_second": count / seconds, "cpu_ms": 1000 * cpu / count}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contestant", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        _run_one(options.contestant, options.requests)
        return
    from tests.fakes.anthropic_server import KEY, serve_process

    seen: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    with serve_process(delay_ms=LATENCY_MS) as url:
        environment = {**os.environ, "ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": KEY}
        for _ in range(options.rounds):
            for name in CONTESTANTS:
                command = [sys.executable, __file__, "--contestant", name, "--requests", str(options.requests)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                seen[name].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in seen.items()
    }
    for name, figures in medians.items():
        print(f"{name:28} {figures['per_second']:7.0f} answers/s {figures['cpu_ms']:6.2f} ms CPU an answer")
    mine, default, fast = (medians[name] for name in ("distill_dagster", *list(CONTESTANTS)[:2]))
    print(f"throughput: {mine['per_second'] / default['per_second']:.2f} x the default client's loop (at least 1.4)")
    print(f"throughput: {mine['per_second'] / fast['per_second']:.2f} x the aiohttp client's loop (at least 0.9)")
    print(f"CPU:        {mine['cpu_ms'] / fast['cpu_ms']:.2f} x the aiohttp client's loop (at most 1.3)")


if __name__ == "__main__":
    main()
