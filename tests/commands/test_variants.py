"""`distill variants` as a user calls it: nothing is asked before somebody agreed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from distill_dagster.cli import main
from distill_dagster.commands import variants
from distill_dagster.project import Distillation
from tests.fakes.anthropic_server import AnthropicServer
from tests.variants.designs import SPEC, rows, script

Declare = Callable[..., Distillation]


@pytest.fixture
def distillation(declare: Declare, claude: AnthropicServer) -> Distillation:
    claude.script = script
    return declare(SPEC, rows__jsonl=rows(60))


def call(distillation: Distillation, *arguments: str, typed: str | None = None) -> Result:
    command = ["--project", str(distillation.project.root), "variants", distillation.name, *arguments]
    return CliRunner().invoke(main, command, input=typed, env={"COLUMNS": "140"})


def test_without_a_terminal_yes_is_needed(distillation: Distillation, claude: AnthropicServer) -> None:
    result = call(distillation, "--rows", "5")

    assert result.exit_code == 1
    assert "demo: 5 of " in result.stderr
    assert "error: 15 answers would be asked for, at most $0.0" in result.stderr
    assert "pass --yes" in result.stderr
    assert claude.accepted == []


@pytest.mark.parametrize(("typed", "code", "asked"), [("n\n", 1, 0), ("\n", 1, 0), ("y\n", 0, 15)])
def test_on_a_terminal_the_user_decides(
    distillation: Distillation,
    claude: AnthropicServer,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    code: int,
    asked: int,
) -> None:
    monkeypatch.setattr(variants, "_is_interactive", lambda: True)

    result = call(distillation, "--rows", "5", typed=typed)

    assert result.exit_code == code
    assert "Ask the teacher? [y/N]" in result.stderr
    assert len(claude.accepted) == asked


def test_the_table_and_the_reports_path(distillation: Distillation) -> None:
    result = call(distillation, "--rows", "10", "--yes")

    assert result.exit_code == 0
    assert "15 answers to ask for" not in result.stderr
    assert "30 answers to ask for, at most $0.0" in result.stderr
    assert "teacher answers: 10/10 answers" in result.stderr
    assert "“brief” beats the declared design on ROUGE-L" in result.stdout
    path = Path(result.stdout.strip().splitlines()[-1])
    assert path.name == "report.html"
    assert path.is_file()


def test_what_is_stored_needs_no_leave(distillation: Distillation, claude: AnthropicServer) -> None:
    call(distillation, "--rows", "5", "--yes")

    again = call(distillation, "--rows", "5")

    assert again.exit_code == 0
    assert "0 answers to ask for, at most $0.00" in again.stderr
    assert len(claude.accepted) == 15


def test_json_is_a_contract(distillation: Distillation) -> None:
    result = call(distillation, "--rows", "5", "--yes", "--json")

    content = json.loads(result.stdout)
    assert content["format"] == 1
    assert Path(content["report"]).parent.name == content["version"]
    assert [design["name"] for design in content["designs"]] == ["declared", "brief", "opus"]
    (cost,) = [measure for measure in content["measures"] if measure["name"] == "cost"]
    assert set(cost["differences"]) == {"brief", "opus"}
    assert set(cost["designs"]["brief"]) == {"value", "low", "high", "n", "n_clusters", "method", "confidence"}
    stored = json.loads(Path(content["report"]).with_name("report.json").read_text(encoding="utf-8"))
    assert {name: content[name] for name in stored} == stored


def test_a_missing_key_is_named_before_anything_is_sent(declare: Declare) -> None:
    result = call(declare(SPEC, rows__jsonl=rows(60)), "--yes")

    assert result.exit_code == 1
    assert "set ANTHROPIC_API_KEY" in result.stderr
