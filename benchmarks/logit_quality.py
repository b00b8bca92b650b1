"""Quality of students trained on captured logits, against TRL's GKDTrainer with the teacher in memory.

    python benchmarks/logit_quality.py [--precision bf16] [--out FILE] [--sizes held_out=209,epochs=3,seeds=2]
    python benchmarks/logit_quality.py --objectives

The demo's rows are split anew by the hash of their group. GKD and our trainer see the same batches for three epochs,
with the same schedule (cosine to zero after 5 % of warm-up, learning rate 3e-4). Ours then trains again for as many
epochs as fitted into GKD's wall clock, capture included. Reported is the full-vocabulary forward KL to the teacher on
held-out rows, teacher-forced on its stored tokens, everything in float32, with paired differences clustered by group.
`--objectives` trains our own objectives instead, one seed, for the documentation.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.training_rivals.setting import Objective, Setting, launch, make_batches, run_module  # noqa: E402
from distill_dagster.evaluation.statistics import Estimate, paired_ratio_difference  # noqa: E402

OBJECTIVES: tuple[Objective, ...] = ("forward_kl", "reverse_kl", "jsd", "sampled", "sft")
FIRST_SEED = 17


@dataclass(frozen=True)
class Sizes:
    """How large the comparison is; `training` 0 takes all rows that are not held out."""

    held_out: int = 209
    training: int = 0
    epochs: int = 3
    seeds: int = 2

    @classmethod
    def parse(cls, text: str) -> "Sizes":
        """From `name=number,…`."""
        return cls(**{name: int(number) for name, _, number in (part.partition("=") for part in text.split(","))})


@dataclass(frozen=True)
class Student:
    """One training; `capture_s` is what it had to capture first."""

    name: str
    system: str
    seed: int
    epochs: int
    training_s: float
    capture_s: float
    folder: str


class Bench:
    """Trains students into a working folder and evaluates them."""

    def __init__(self, work: Path, sizes: Sizes, precision: str) -> None:
        self._work = work
        self._sizes = sizes
        self._precision = precision
        training = [str(sizes.training)] if sizes.training else []
        self.prepared = run_module("prepare", str(work), str(sizes.held_out), *training)
        self._lengths = pl.read_parquet(work / "rows.parquet")["input_ids"].list.len().to_list()
        self._captures: dict[str, float] = {}

    def train(self, system: str, seed: int, epochs: int, objective: Objective = "forward_kl") -> Student:
        """A student of GKD (`gkd`) or of our trainer (`ours`)."""
        name = f"{system if system == 'gkd' else objective}-{seed}-{epochs}"
        captured, capture_s = self._captured(objective) if system == "ours" else (None, 0.0)
        setting = Setting(
            system=system,  # type: ignore[arg-type]
            work=str(self._work),
            batches=[batch for epoch in range(epochs) for batch in make_batches(self._lengths, seed, epoch)],
            precision=self._precision,  # type: ignore[arg-type]
            seed=seed,
            objective=objective,
            captured=captured,
            save_to=str(self._work / name),
            epochs=epochs,
        )
        result = launch(setting)
        print(f"  {name}: {result['seconds']:.0f} s, last loss {result['losses'][-1]:.3f}", flush=True)
        label = "gkd" if system == "gkd" else f"ours, {objective}"
        return Student(name, label, seed, epochs, result["seconds"], capture_s, str(self._work / name))

    def evaluate(self, students: list[Student]) -> pl.DataFrame:
        """Fidelity of each student and of the untrained start, `base`, on every held-out row."""
        out = self._work / "fidelity.parquet"
        named = [f"{one.name}={one.folder}" for one in students]
        run_module("evaluate", str(self._work), str(out), f"base={self._work / 'base'}", *named)
        return pl.read_parquet(out)

    def _captured(self, objective: Objective) -> tuple[str | None, float]:
        """Where an objective's targets are, and the seconds it took; captured once for all trainings."""
        if objective == "sft":
            return None, 0.0
        method = "sample" if objective == "sampled" else "topk"
        folder = str(self._work / f"captured-{method}")
        if method not in self._captures:
            done = run_module("capture", str(self._work), self._precision, method, str(self._sizes.epochs), folder)
            self._captures[method] = done["seconds"]
        return folder, self._captures[method]


def against_gkd(bench: Bench, sizes: Sizes) -> list[Student]:
    """GKD, ours for as many epochs, and ours for as long, for each seed."""
    students = []
    for seed in range(FIRST_SEED, FIRST_SEED + sizes.seeds):
        rival = bench.train("gkd", seed, sizes.epochs)
        ours = bench.train("ours", seed, sizes.epochs)
        students += [rival, ours, *within(rival.training_s, ours, bench)]
    return students


def within(seconds: float, shorter: Student, bench: Bench) -> list[Student]:
    """Ours trained again, for as many epochs as `seconds` hold with the capture; none if that is no more than before.

    The epochs are reckoned from the `shorter` training; where they took longer than that, they are one too many.
    """
    epochs = int((seconds - shorter.capture_s) / (shorter.training_s / shorter.epochs))
    while epochs > shorter.epochs:
        longer = bench.train("ours", shorter.seed, epochs)
        if longer.training_s + longer.capture_s <= seconds:
            return [longer]
        epochs -= 1
    return []


def difference(fidelity: pl.DataFrame, name: str, other: str) -> Estimate:
    """KL per token of one student minus that of another."""
    one, two = (fidelity.filter(pl.col("name") == which).sort("prompt_id", "sample") for which in (name, other))
    assert one["prompt_id"].equals(two["prompt_id"])
    groups = one["group_id"].to_list()
    columns = (frame[column].to_numpy() for frame in (one, two) for column in ("kl_sum", "tokens"))
    return paired_ratio_difference(*columns, groups)


def table(fidelity: pl.DataFrame, students: list[Student], compared_with: dict[str, str]) -> list[str]:
    """Markdown; `compared_with` names, for each student, the one whose KL is taken from its own."""
    sums = {
        name: (kl / tokens, hits / tokens)
        for name, kl, tokens, hits in fidelity.group_by("name")
        .agg(pl.col("kl_sum", "tokens", "top1_hits").sum())
        .select("name", "kl_sum", "tokens", "top1_hits")
        .iter_rows()
    }
    rows = [
        "| student | seed | epochs | training, s | capture, s | held-out KL | top-1 | difference of KL (95 %) |",
        "|---|---|---|---|---|---|---|---|",
        f"| untrained |  | 0 |  |  | {sums['base'][0]:.3f} | {sums['base'][1]:.1%} |  |",
    ]
    for one in students:
        kl, top1 = sums[one.name]
        other = compared_with.get(one.name)
        shown = estimate_text(difference(fidelity, one.name, other)) if other and other != one.name else ""
        rows.append(
            f"| {one.system} | {one.seed} | {one.epochs} | {one.training_s:.0f} | {one.capture_s:.0f} "
            f"| {kl:.3f} | {top1:.1%} | {shown} |"
        )
    return rows


def estimate_text(estimate: Estimate) -> str:
    """Value with its interval."""
    if estimate.value is None:
        return "undefined"
    interval = f" [{estimate.low:+.4f}, {estimate.high:+.4f}]" if estimate.interval else ""
    return f"{estimate.value:+.4f}{interval}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--sizes", type=Sizes.parse, default=Sizes())
    parser.add_argument("--objectives", action="store_true")
    parser.add_argument("--out", type=Path, help="file for all results as JSON")
    options = parser.parse_args()
    sizes: Sizes = options.sizes
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), sizes, options.precision)
        print(bench.prepared, flush=True)
        if options.objectives:
            students = [bench.train("ours", FIRST_SEED, sizes.epochs, objective) for objective in OBJECTIVES]
            compared_with = {one.name: students[0].name for one in students}
        else:
            students = against_gkd(bench, sizes)
            rivals = {one.seed: one.name for one in students if one.system == "gkd"}
            compared_with = {one.name: rivals[one.seed] for one in students}
        fidelity = bench.evaluate(students)
    print("\n" + "\n".join(table(fidelity, students, compared_with)))
    against = "forward_kl" if options.objectives else "GKD of the same seed"
    print(f"\ndifference: minus {against}; below 0 is closer to the teacher; {fidelity['prompt_id'].n_unique()} rows")
    if options.out:
        content: dict[str, Any] = {
            "prepared": bench.prepared,
            "students": [asdict(one) for one in students],
            "fidelity": fidelity.to_dicts(),
        }
        options.out.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
