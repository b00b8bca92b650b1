"""Speed and memory of training a student on captured logits, against TRL with the teacher in memory.

    python benchmarks/logit_training.py [--rounds 5] [--steps 16] [--precisions fp32,bf16] [--out FILE]
    python benchmarks/logit_training.py --check

SmolLM2-135M-Instruct teaches its 16 most influential layers on the demo's rows. All systems see the same batches in
the same order, with the same precision, optimiser and schedule, each in a process of its own. A round trains all of
them once, step by step in turn, so that a change of the machine's pace meets all alike. Timing begins after two steps,
the batch of the longest row among them, and leaves out loading. What capturing cost, once for all trainings, is printed
beside. `--check` compares everybody's loss on the first batch with one formed in the plainest way.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.training_rivals.setting import Setting, launch, make_batches, run_module  # noqa: E402
from benchmarks.training_rivals.turns import train_in_turn  # noqa: E402

SYSTEMS = ("gkd", "chunked", "sft", "ours")
WARM_UP_STEPS = 2
# ours is an estimate by draws from the teacher's tail
TOLERANCE = {"gkd": 1e-3, "chunked": 1e-3, "sft": 1e-3, "ours": 1e-2}
EXPECTED = {
    "gkd": "forward_kl",
    "chunked": "forward_kl",
    "sft": "cross_entropy",
    "ours": "cross_entropy_to_teacher",
}
Runs = dict[str, list[dict[str, Any]]]


def batches_of(work: Path, steps: int, seed: int = 17) -> list[list[int]]:
    """The first `steps` batches of as many epochs as that takes."""
    lengths = pl.read_parquet(work / "rows.parquet")["input_ids"].list.len().to_list()
    batches: list[list[int]] = []
    while len(batches) < steps:
        batches += make_batches(lengths, seed, epoch=len(batches))
    return batches[:steps]


def setting_for(system: str, work: Path, precision: str, batches: list[list[int]], warm_up: int) -> Setting:
    captured = str(work / f"captured-{precision}") if system == "ours" else None
    return Setting(
        system=system,  # type: ignore[arg-type]
        work=str(work),
        batches=batches,
        precision=precision,  # type: ignore[arg-type]
        warm_up_steps=warm_up,
        captured=captured,
    )


def capture(work: Path, precision: str) -> dict[str, Any]:
    """Captures for our own trainer; returns counts and seconds."""
    return run_module("capture", str(work), precision, "topk", "1", str(work / f"captured-{precision}"))


def check(work: Path, systems: Sequence[str]) -> bool:
    """Whether everybody's loss on the first batch, in float32, is what it should be."""
    batches = batches_of(work, 1)
    path = work / "reference.json"
    path.write_text(json.dumps({"system": "gkd", "work": str(work), "batches": batches}), encoding="utf-8")
    plain = run_module("reference", str(path))
    if "ours" in systems:
        capture(work, "fp32")
    right = True
    for system in systems:
        loss = launch(setting_for(system, work, "fp32", batches, 0))["losses"][0]
        expected = plain[EXPECTED[system]]
        agrees = abs(loss - expected) < TOLERANCE[system]
        right = right and agrees
        print(
            f"{system:8} {loss:.5f}  {EXPECTED[system]} {expected:.5f}  {'agrees' if agrees else 'DIFFERS'}", flush=True
        )
    return right


def measure(work: Path, precision: str, options: argparse.Namespace) -> Runs:
    """All rounds of one precision."""
    systems: list[str] = options.systems
    batches = batches_of(work, options.steps)
    settings = [setting_for(system, work, precision, batches, WARM_UP_STEPS) for system in systems]
    runs: Runs = {system: [] for system in systems}
    for number in range(options.rounds):
        for system, result in zip(systems, train_in_turn(settings), strict=True):
            runs[system].append(result)
            print(f"  {precision} round {number + 1} {system:8} {result['tokens_per_second']:.1f} tokens/s", flush=True)
    return runs


def table(precision: str, runs: Runs) -> list[str]:
    """Rows of the Markdown table: medians with ranges, and the ratio to GKD, round by round."""
    rows = []
    for system, measured in runs.items():
        speeds = [run["tokens_per_second"] for run in measured]
        memory = [run["peak_memory_bytes"] / 1e9 for run in measured]
        ratio = ""
        if "gkd" in runs:
            ratios = [speed / rival["tokens_per_second"] for speed, rival in zip(speeds, runs["gkd"], strict=True)]
            lower = statistics.quantiles(ratios, n=4, method="inclusive")[0] if len(ratios) > 1 else ratios[0]
            ratio = f"{statistics.median(ratios):.2f} ({lower:.2f})"
        rows.append(f"| {precision} | {system} | {spread(speeds, 1)} | {spread(memory, 2)} | {ratio} |")
    return rows


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=["fp32", "bf16"])
    parser.add_argument("--systems", type=lambda text: text.split(","), default=["gkd", "chunked", "ours"])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path, help="file for all results as JSON")
    options = parser.parse_args()
    if unknown := set(options.systems) - set(SYSTEMS):
        parser.error(f"no such system: {', '.join(sorted(unknown))} (known: {', '.join(SYSTEMS)})")
    if options.steps <= WARM_UP_STEPS:
        parser.error(f"--steps must be more than {WARM_UP_STEPS}, which are left out of the timing")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        print(run_module("prepare", str(work), "0"))
        if options.check:
            sys.exit(0 if check(work, options.systems) else 1)
        captured: dict[str, Any] = {}
        results: dict[str, Runs] = {}
        for precision in options.precisions:
            if "ours" in options.systems:
                captured[precision] = capture(work, precision)
            results[precision] = measure(work, precision, options)
    print("\n| precision | system | trained tokens/s | peak memory, GB | speed against GKD (lower quartile) |")
    print("|---|---|---|---|---|")
    print("\n".join(row for precision, runs in results.items() for row in table(precision, runs)))
    for precision, counts in captured.items():
        seconds, tokens = counts["seconds"], counts["tokens"]
        size = counts["bytes"] / tokens
        print(f"\ncaptured once in {precision}: {tokens} tokens in {seconds:.1f} s, {size:.0f} bytes a token")
    if options.out:
        options.out.write_text(json.dumps({"captured": captured, "runs": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
