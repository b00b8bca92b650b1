"""`distill run` with nothing to do on a whole chain: prompts to releases, with captured logits, in many partitions.

    python benchmarks/idle_run.py [--prompts 2000] [--partitions 200] [--rounds 5]

The models are the tiny ones of the tests; the first run makes everything, and is not measured. Each command is a
process of its own; elapsed seconds and peak memory are medians, of the processor too.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.plan_scale import apart, run, write_rows  # noqa: E402

DEFS = """type: distill_dagster.Distillation
attributes:
  prompts:
    source: {parquet: rows.parquet}
    prompt: "{{ question }}"
    id: number
    partition: {by: topic}
  golden_set: {jsonl: golden.jsonl}
  teacher: {provider: transformers, model: tiny, dtype: float32, max_tokens: 16, batch_size: 64}
  curation: {drop: [empty]}
  logits: {k: 4}
  students:
    sft: {base: {prune: teacher, layers: 2}, objective: sft, epochs: 1, precision: fp32}
    logit: {base: {prune: teacher, layers: 2}, objective: logit, epochs: 1, precision: fp32}
  evaluation: {metrics: [chrf], gate: {metric: chrf, max_degradation: 0.9}}
"""
GOLDEN_ROWS = 20
CODES = (0, 3)  # a gate that the tiny student does not pass withholds its release


def make_model(folder: Path) -> None:
    """The tests' tiny model."""
    from tests.tiny import make_tiny_model

    make_tiny_model(folder)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2_000)
    parser.add_argument("--partitions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assets = folder / "assets" / "bench"
        assets.mkdir(parents=True)
        (assets / "defs.yaml").write_text(DEFS, encoding="utf-8")
        golden = [
            {"question": f"Who was number {n}?", "reference": f"Nobody, {n} times.", "verified": True}
            for n in range(GOLDEN_ROWS)
        ]
        (assets / "golden.jsonl").write_text("".join(json.dumps(row) + "\n" for row in golden), encoding="utf-8")
        apart(write_rows, assets, options.prompts, options.partitions, False)
        apart(make_model, folder / ".models" / "tiny")
        made = run(folder, "run", "bench", codes=CODES)
        print(f"{made.seconds:7.1f} s  {made.peak_mib:7.0f} MiB  first run", flush=True)
        idle = [run(folder, "run", "bench", codes=CODES) for _ in range(options.rounds)]
    if any("nothing to do" not in one.output for one in idle):
        raise SystemExit(idle[0].output)
    seconds, cpu, peak = (
        statistics.median(getattr(one, what) for one in idle) for what in ("seconds", "cpu_seconds", "peak_mib")
    )
    print(f"{seconds:7.1f} s  {cpu:7.1f} s cpu  {peak:7.0f} MiB  run, nothing due, {options.prompts:,} prompts")


if __name__ == "__main__":
    main()
