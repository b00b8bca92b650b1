"""A run that is killed again and again: every prompt ends with one answer, and next to nothing is paid twice."""

import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.store import write_prompts
from distill_dagster.teachers.outputs import outputs_summary, read_outputs
from distill_dagster.teachers.store.responses import ResponseStore
from tests.fakes.anthropic_server import KEY, AnthropicServer, serve_process
from tests.teachers.answering_process import start
from tests.teachers.hosted import rows, spec

Declare = Callable[..., Distillation]
PROMPTS, KILLS, CONCURRENCY = 2_000, 20, 16


def declared(declare: Declare, *more: str, prompts: int = PROMPTS) -> Distillation:
    attributes = spec(*more).replace("concurrency: 4", f"concurrency: {CONCURRENCY}")
    distillation = declare(attributes, rows__jsonl=rows(prompts))
    write_prompts(distillation, "all", build_prompts(distillation).partitions["all"])
    return distillation


def begin(distillation: Distillation, parts: int | None = None) -> "subprocess.Popen[str]":
    return start(distillation.project.root, distillation.name, parts)


def finish(process: "subprocess.Popen[str]") -> dict[str, object]:
    assert process.stdout is not None
    outcome: dict[str, object] = json.loads(process.stdout.readline())
    assert process.wait(60) == 0
    return outcome


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def accepted(log: Path) -> list[dict[str, str]]:
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [json.loads(line) for line in lines]


@pytest.mark.timeout(600)
def test_twenty_kills_cost_at_most_what_was_in_flight(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "accepted.jsonl"
    log.touch()
    chance = random.Random(3)
    with serve_process(delay_ms=10, log=log) as url:
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        distillation = declared(declare, "budget_usd: 10")
        for moment in sorted(chance.sample(range(PROMPTS), KILLS)):
            process = begin(distillation)
            while process.poll() is None and len(accepted(log)) < moment:
                time.sleep(0.002)
            time.sleep(chance.random() * 0.02)
            kill(process)
        outcome = finish(begin(distillation))

    assert outcome["failed"] == {}
    outputs = read_outputs(distillation, "all")
    assert outputs["status"].to_list() == ["answered"] * PROMPTS
    assert ResponseStore(distillation.project.store_url).count() == PROMPTS
    asked = Counter(line["prompt"] for line in accepted(log))
    assert len(asked) == PROMPTS
    assert sum(asked.values()) - PROMPTS <= KILLS * CONCURRENCY


@pytest.mark.timeout(600)
def test_twenty_kills_pay_no_batch_twice(declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "accepted.jsonl"
    log.touch()
    chance = random.Random(4)
    with serve_process(log=log, batch_ends_after_s=0.2) as url:
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        distillation = declared(declare, "transport: batches")
        for _ in range(KILLS):
            process = begin(distillation, parts=100)
            time.sleep(chance.random() * 0.5)
            kill(process)
        outcome = finish(begin(distillation, parts=100))

    assert outcome["failed"] == {}
    assert outputs_summary(distillation, "all")["answered"] == PROMPTS
    paid = Counter(line["custom_id"] for line in accepted(log) if line["via"] == "batch")
    assert max(paid.values()) == 1
    trials = [line for line in accepted(log) if line["via"] == "messages"]
    assert len(paid) + len({line["prompt"] for line in trials}) == PROMPTS


@pytest.mark.parametrize(
    "state",
    ["intended, not sent on", "intended, but made", "created", "ended, results half read"],
)
def test_a_kill_in_every_state_of_a_batch_pays_nothing_twice(
    declare: Declare, claude: AnthropicServer, state: str
) -> None:
    if state == "intended, not sent on":
        claude.stall_create = ["before"]
    elif state == "intended, but made":
        claude.stall_create = ["after"]
    elif state == "created":
        claude.hold_batches = True
    else:
        claude.stall_results_after = [5]
    distillation = declared(declare, "transport: batches", prompts=30)

    process = begin(distillation)
    until = time.monotonic() + 30
    while not (claude.stalled.is_set() or (claude.hold_batches and claude.batches)):
        assert time.monotonic() < until
        time.sleep(0.01)
    kill(process)
    claude.hold_batches = False
    outcome = finish(begin(distillation))

    assert outcome["failed"] == {}
    assert len(read_outputs(distillation, "all")) == 30
    assert len(claude.accepted) == len(set(claude.accepted)) == 30
    assert len([batch for batch in claude.batches if not batch.deleted]) == 1
