"""`distill status`: what was spent, where it went, and what is still under way."""

import json
from typing import Any

import pytest

from distill_dagster.commands.status import print_status, status_of
from distill_dagster.graph.instance_home import open_instance
from distill_dagster.graph.run import Runner
from distill_dagster.plan import Asset, Request
from distill_dagster.project import Distillation
from distill_dagster.teachers.outputs import read_outputs
from tests.fakes.anthropic_server import AnthropicServer
from tests.graph.hosted import Declare, rows, spec


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def run(distillation: Distillation, *, wait: bool = True) -> str:
    with open_instance(distillation.project) as instance:
        outcome = Runner(distillation, instance, lambda text: None, wait=wait).run(Request(until=Asset.TEACHER_OUTPUTS))
        assert outcome.failure is None
        return str(instance.get_runs()[0].run_id)


def as_json(distillation: Distillation, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    print_status(status_of(distillation), as_json=True)
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def shown(distillation: Distillation, capsys: pytest.CaptureFixture[str]) -> str:
    print_status(status_of(distillation), as_json=False)
    return capsys.readouterr().out


def test_the_account_as_json(declare: Declare, claude: AnthropicServer, capsys: pytest.CaptureFixture[str]) -> None:
    distillation = declare(spec(budget_usd=3), rows__jsonl=rows(birds=20))
    first = run(distillation)
    distillation = declare(spec(budget_usd=3), rows__jsonl=rows(birds=20, fish=5))
    second = run(distillation)

    content = as_json(distillation, capsys)

    costs = {name: int(read_outputs(distillation, name)["cost_microusd"].sum()) for name in ("birds", "fish")}
    assert content["format"] == 1
    paid = {row["partition"]: row["cost_microusd"] for row in content["assets"] if "cost_microusd" in row}
    assert paid == costs
    assert content["spending"] == {
        "spent_microusd": sum(costs.values()),
        "reserved_microusd": 0,
        "budget_microusd": 3_000_000,
        "runs": [
            {"run": second, "requests": 5, "cost_microusd": costs["fish"]},
            {"run": first, "requests": 20, "cost_microusd": costs["birds"]},
        ],
        "batches": [],
    }


def test_open_batches_and_what_is_reserved_for_them(
    declare: Declare, claude: AnthropicServer, capsys: pytest.CaptureFixture[str]
) -> None:
    claude.hold_batches = True
    distillation = declare(spec(transport="batches"), rows__jsonl=rows(birds=20))
    run(distillation, wait=False)

    spending = as_json(distillation, capsys)["spending"]
    text = shown(distillation, capsys)

    (batch,) = spending["batches"]
    assert batch | {"id": "", "age_s": 0} == {
        "id": "",
        "provider_id": claude.batches[0].id,
        "state": "created",
        "requests": 19,
        "age_s": 0,
    }
    assert spending["reserved_microusd"] > spending["spent_microusd"] > 0
    assert f"batch {claude.batches[0].id}: created, 19 requests, for " in text
    assert text.splitlines()[-1].startswith("spent $0.")
    assert "(reserved $0." in text.splitlines()[-1]


def test_the_table_has_a_cost_column_where_there_is_something_to_pay(
    declare: Declare, claude: AnthropicServer, capsys: pytest.CaptureFixture[str]
) -> None:
    distillation = declare(spec(budget_usd=3), rows__jsonl=rows(birds=20))
    run(distillation)

    lines = shown(distillation, capsys).splitlines()

    assert lines[0].split() == ["asset", "partition", "state", "version", "cost", "why"]
    answers = next(line for line in lines if "teacher_outputs" in line)
    cost = read_outputs(distillation, "birds")["cost_microusd"].sum() / 1_000_000
    assert f"${cost:.4f}" in answers
    assert lines[-1] == f"spent ${cost:.4f} of budget $3.00 (reserved $0.00)"


def test_a_local_teacher_has_no_account(declare: Declare, capsys: pytest.CaptureFixture[str], tiny_model: Any) -> None:
    local = (
        f'prompts:\n  source: {{jsonl: rows.jsonl}}\n  prompt: "{{{{ question }}}}"\n'
        f"teacher: {{provider: transformers, model: {tiny_model}}}\n"
    )
    distillation = declare(local, rows__jsonl=rows(birds=3))

    content = as_json(distillation, capsys)

    assert content["spending"] is None
    assert set(content["assets"][0]) == {"asset", "name", "partition", "state", "version", "why"}
    assert "cost" not in shown(distillation, capsys).splitlines()[0]
    assert not (distillation.project.home / "responses.sqlite").exists()
