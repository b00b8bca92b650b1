"""What every system is told: which rows in which batches, which models, which precision; torch-free."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]
TEACHER = ROOT / ".models" / "smollm2-135m-instruct"
LAYERS = 16
BATCH_SIZE = 8
MAX_LENGTH = 256
THREADS = 2
TOP_K = 20
TAIL_DRAWS = 380
_BATCHES_SORTED_TOGETHER = 25

System = Literal["gkd", "chunked", "sft", "ours"]
Precision = Literal["fp32", "bf16"]
Objective = Literal["forward_kl", "reverse_kl", "jsd", "sampled", "sft"]


@dataclass(frozen=True)
class Setting:
    """One run of one system.

    Attributes:
        system: which module of this package runs it.
        work: folder that `prepare` filled (rows.parquet, held_out.parquet, base/).
        batches: row numbers of rows.parquet, one list a step, in the order of training.
        precision: of training; `bf16` is autocast over float32 weights, the teacher's too.
        warm_up_steps: first steps that are left out of the timing.
        objective: what our own trainer minimises; the others minimise forward KL, `sft` cross-entropy.
        captured: folder that `capture` filled; ours only.
        save_to: where the trained student goes; None keeps none.
        epochs: how many passes over the rows `batches` are, all of one length.
        takes_turns: whether it waits before each step until it is told to go on (`turns`).
    """

    system: System
    work: str
    batches: list[list[int]]
    precision: Precision = "fp32"
    teacher: str = str(TEACHER)
    learning_rate: float = 3e-4
    learning_rate_warm_up: float = 0.05
    seed: int = 17
    threads: int = THREADS
    warm_up_steps: int = 0
    objective: Objective = "forward_kl"
    captured: str | None = None
    save_to: str | None = None
    epochs: int = 1
    takes_turns: bool = False

    @classmethod
    def from_command_line(cls) -> "Setting":
        """The setting whose file is the process's only argument."""
        return cls(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))

    def write(self) -> Path:
        """Into a file that `from_command_line` reads."""
        path = Path(self.work) / f"setting-{self.system}.json"
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path


def launch(setting: Setting) -> dict[str, Any]:
    """Runs a system in a process of its own and returns what it measured.

    Raises:
        SystemExit: it failed; what it wrote to stderr is shown.
    """
    return run_module(setting.system, str(setting.write()), threads=setting.threads)


def run_module(name: str, *arguments: str, threads: int = THREADS) -> dict[str, Any]:
    """Runs a module of this package and returns the JSON object of its last line.

    Raises:
        SystemExit: it failed; what it wrote to stderr is shown.
    """
    command, environment = command_of(name, *arguments), environment_of(threads)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return result_of(name, done.returncode, done.stdout, done.stderr)


def result_of(name: str, status: int, output: str, errors: str) -> dict[str, Any]:
    """The JSON object of a module's last line.

    Raises:
        SystemExit: it failed; what it wrote to stderr is shown.
    """
    if status:
        raise SystemExit(f"{name} failed with status {status}:\n{errors[-4000:]}")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def command_of(name: str, *arguments: str) -> list[str]:
    """What starts a module of this package."""
    return [sys.executable, "-m", f"benchmarks.training_rivals.{name}", *arguments]


def environment_of(threads: int) -> dict[str, str]:
    """Of every process that is measured."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def make_batches(lengths: Sequence[int], seed: int, epoch: int, size: int = BATCH_SIZE) -> list[list[int]]:
    """One epoch of batches of rows of similar length, in an order that depends on seed and epoch alone.

    The batch of the longest row comes first, so that even a few steps show the peak of memory.
    """
    draw = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    draw.shuffle(order)
    span = size * _BATCHES_SORTED_TOGETHER
    spans = [sorted(order[start : start + span], key=lambda row: -lengths[row]) for start in range(0, len(order), span)]
    batches = [part[start : start + size] for part in spans for start in range(0, len(part), size)]
    draw.shuffle(batches)
    return sorted(batches, key=lambda batch: max(lengths[row] for row in batch) != max(lengths))


def held_out_groups(groups: Sequence[str], rows: int) -> set[str]:
    """Groups that together have at least `rows` rows, picked by their hash alone. `groups` names each row's."""
    held: set[str] = set()
    count = 0
    for group in sorted(set(groups), key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        if count >= rows:
            break
        held.add(group)
        count += groups.count(group)
    return held
