"""`distill batches`: what was sent, and how to end it."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from distill_dagster.cli import main
from distill_dagster.project import Distillation
from tests.fakes.anthropic_server import AnthropicServer
from tests.teachers.hosted import answer, rows, spec

Declare = Callable[..., Distillation]


@pytest.fixture
def sent(declare: Declare, claude: AnthropicServer) -> Distillation:
    """A distillation with one batch under way."""
    claude.hold_batches = True
    distillation = declare(spec("transport: batches"), rows__jsonl=rows(10))
    answer(distillation, wait=False)
    return distillation


def distill(distillation: Distillation, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--project", str(distillation.project.root), "batches", "demo", *arguments])


def test_it_lists_batches_with_their_state(sent: Distillation, claude: AnthropicServer) -> None:
    listed = json.loads(distill(sent, "--json").output)

    assert listed["format"] == 1
    [batch] = listed["batches"]
    assert (batch["provider_id"], batch["state"], batch["requests"]) == (claude.batches[0].id, "created", 9)
    assert claude.batches[0].id in distill(sent).output


def test_a_cancelled_batch_brings_what_it_answered_and_the_rest_is_asked_again(
    sent: Distillation, claude: AnthropicServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_dagster.teachers.anthropic.batching.FIRST_POLL_S", 0.02)
    claude.cancel_completes = 4
    shown = distill(sent, "--cancel", claude.batches[0].id)
    claude.hold_batches = False

    build = answer(sent)

    assert "is being cancelled" in shown.output
    assert build.failed == {}
    assert len(claude.accepted) == len(set(claude.accepted)) == 10


def test_a_batch_that_is_given_up_is_asked_again(
    sent: Distillation, claude: AnthropicServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill_dagster.teachers.anthropic.batching.FIRST_POLL_S", 0.02)
    shown = distill(sent, "--give-up", claude.batches[0].id)
    claude.hold_batches = False

    assert "count as paid and will be asked again" in shown.output
    assert answer(sent).failed == {}
    assert len(claude.batches) == 2


def test_an_unknown_batch_is_named_with_those_that_are_open(sent: Distillation, claude: AnthropicServer) -> None:
    shown = distill(sent, "--cancel", "msgbatch_none")

    assert shown.exit_code == 1
    assert f"no open batch 'msgbatch_none' (open: {claude.batches[0].id})" in shown.output
