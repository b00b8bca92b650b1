"""Whatever was edited, run, killed, cut otherwise and undone: what stands at the end is what a clean run makes.

A few histories are drawn here, always the same. `DISTILL_HISTORIES=50` draws that many, and
`--hypothesis-seed=N` others.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fakes.anthropic_server import anthropic_server
from tests.histories.forking import Forking, forking
from tests.histories.machine import HostedHistory
from tests.histories.world import CONCURRENCY, Paying, Teacher, World, environment_of

HISTORIES = int(os.environ.get("DISTILL_HISTORIES", "0"))
STEPS = int(os.environ.get("DISTILL_HISTORY_STEPS", "14"))


def drawn(histories: int) -> settings:
    """As many histories as are asked for, else a few fixed ones."""
    return settings(
        max_examples=HISTORIES or histories,
        stateful_step_count=STEPS,
        derandomize=not HISTORIES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forking]:
    with forking(tmp_path_factory.mktemp("commands")) as made:
        yield made


@pytest.mark.timeout(0)
def test_any_history_of_a_hosted_teacher_ends_as_a_clean_run(
    tmp_path: Path, commands: Forking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    numbers = itertools.count()

    class History(HostedHistory):
        def make(self) -> tuple[World, Teacher, Paying]:
            self.serving = anthropic_server()
            server = self.serving.__enter__()
            world = World(tmp_path / f"history-{next(numbers)}", commands, environment_of(server))
            return world, Teacher(server), Paying(world, server)

        def blocks(self) -> dict[str, dict[str, Any]]:
            teacher = {"provider": "anthropic", "model": "claude-haiku-4-5", "max_tokens": 50}
            prompts = {"source": {"jsonl": "rows.jsonl"}, "prompt": "{{ question }}", "partition": {"by": "topic"}}
            return {"prompts": prompts, "teacher": {**teacher, "concurrency": CONCURRENCY}}

        def teardown(self) -> None:
            try:
                super().teardown()
            finally:
                if hasattr(self, "serving"):
                    self.serving.__exit__(None, None, None)

    run_state_machine_as_test(History, settings=drawn(4))
