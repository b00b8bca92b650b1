"""Whatever was edited, run, killed, cut otherwise and undone: what stands at the end is what a clean run makes.

A few histories are drawn here, always the same. `DISTILL_HISTORIES=50` draws that many, and `--hypothesis-seed=N`
others; `DISTILL_HISTORY_STEPS=30` makes them longer.
"""

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fakes.anthropic_server import anthropic_server
from tests.histories.forking import Forking, forking
from tests.histories.machine import HostedHistory, LocalHistory
from tests.histories.world import CONCURRENCY, Books, Paying, Teacher, World, hosted

HISTORIES = int(os.environ.get("DISTILL_HISTORIES", "0"))
STEPS = int(os.environ.get("DISTILL_HISTORY_STEPS", "0"))
PROMPTS = {
    "source": {"jsonl": "rows.jsonl"},
    "prompt": "{{ question }}",
    "partition": {"by": "topic"},
    "split": {"validation": 0.3, "test": 0.4},
}


def drawn(histories: int, steps: int) -> settings:
    """As many histories as are asked for, else a few fixed ones."""
    return settings(
        max_examples=HISTORIES or histories,
        stateful_step_count=STEPS or steps,
        derandomize=not HISTORIES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forking]:
    with forking(tmp_path_factory.mktemp("commands"), torch=True) as made:
        yield made


@pytest.mark.timeout(0 if HISTORIES else 600)
def test_any_history_of_a_hosted_teacher_ends_as_a_clean_run(tmp_path: Path, commands: Forking) -> None:
    numbers = itertools.count()
    compared: set[str] = set()

    class History(HostedHistory):
        def make(self) -> None:
            self.serving = anthropic_server()
            server = self.serving.__enter__()
            self.world = World(tmp_path / f"history-{next(numbers)}", commands, hosted(server))
            self.teacher = Teacher(server)
            self.books = Paying(self.world, server)
            self.compared = compared

        def blocks(self) -> dict[str, dict[str, Any]]:
            teacher = {"provider": "anthropic", "model": "claude-haiku-4-5", "max_tokens": 50}
            return {"prompts": PROMPTS, "teacher": {**teacher, "concurrency": CONCURRENCY}}

        def teardown(self) -> None:
            try:
                super().teardown()
            finally:
                if hasattr(self, "serving"):
                    self.serving.__exit__(None, None, None)

    run_state_machine_as_test(History, settings=drawn(4, steps=11))
    assert HISTORIES or {"dataset", "dataset/test.parquet"} <= compared


@pytest.mark.timeout(0 if HISTORIES else 600)
def test_any_history_of_a_local_teacher_and_a_student_ends_as_a_clean_run(
    tmp_path: Path, commands: Forking, tiny_model: Path
) -> None:
    numbers = itertools.count()
    compared: set[str] = set()

    class History(LocalHistory):
        def make(self) -> None:
            self.world = World(tmp_path / f"history-{next(numbers)}", commands, {})
            shutil.copytree(tiny_model, self.world.root / ".models" / "tiny")
            self.books = Books(self.world)
            self.compared = compared

        def blocks(self) -> dict[str, dict[str, Any]]:
            small = {"base": {"prune": "teacher", "layers": 1}, "objective": "logit", "precision": "fp32"}
            return {
                "prompts": PROMPTS,
                "teacher": {"provider": "transformers", "model": "tiny", "dtype": "float32", "max_tokens": 16},
                "logits": {"k": 8},
                "students": {"small": {**small, "max_steps": 2, "batch_size": 4, "checkpoint_steps": 1}},
            }

    run_state_machine_as_test(History, settings=drawn(2, steps=14))
    assert HISTORIES or {"student/small", "evaluation/small"} <= compared
    assert HISTORIES or any(name.endswith(" sequences") for name in compared)
