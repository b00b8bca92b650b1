"""`distill plan` as a user calls it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

from click.testing import CliRunner, Result

from distill_dagster.cli import main
from distill_dagster.project import Distillation
from tests.fakes.anthropic_server import AnthropicServer
from tests.planning.test_make import SPEC, STUDENTS, make, rows

Declare = Callable[..., Distillation]


def call(distillation: Distillation, *arguments: str) -> Result:
    command = ["--project", str(distillation.project.root), "plan", distillation.name, *arguments]
    return CliRunner().invoke(main, command, env={"COLUMNS": "160"})


def test_a_table_and_closing_sentences(declare: Declare, claude: AnthropicServer) -> None:
    make(declare(SPEC, rows__jsonl=rows()))

    result = call(declare(SPEC + STUDENTS, rows__jsonl=rows(q7="another question")))

    assert result.exit_code == 0
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert any(line.startswith("prompts") and line.endswith("rows of the source") for line in lines)
    assert "teacher_outputs: 2 partitions unchanged" in lines
    assert "prompts: 29 unchanged, 0 new, 1 changed, 0 removed" in lines
    assert any(line.startswith("teacher calls: 1 needed, 9 stored; about ") for line in lines)
    assert "students: small will be trained" in lines


def test_nothing_due_is_one_line(declare: Declare, claude: AnthropicServer) -> None:
    result = call(make(declare(SPEC, rows__jsonl=rows())))

    assert result.stdout == (
        "demo: nothing to do; everything is up to date (30 unchanged, 0 new, 0 changed, 0 removed)\n"
    )


def test_json_is_a_contract(declare: Declare, claude: AnthropicServer) -> None:
    make(declare(SPEC, rows__jsonl=rows(10)))

    result = call(declare(SPEC, rows__jsonl=rows(10, q7="another question")), "--json")

    content = json.loads(result.stdout)
    unmeasured = content.pop("estimate")
    assert set(unmeasured) == {
        "input_tokens",
        "output_tokens",
        "input_basis",
        "output_basis",
        "transport",
        "expected_microusd",
        "most_microusd",
        "budget_left_microusd",
    }
    absent = {"name": None, "partition": None, "rows": None, "calls": None, "sequences": None, "adopts": None}
    changes = {"unchanged": 9, "new": 0, "changed": 1, "removed": 0}
    calls = {"needed": 1, "stored": 9, "in_batches": 0}
    assert content == {
        "format": 1,
        "distillation": "demo",
        "provider": "anthropic",
        "model": "claude-haiku-4-5",
        "assets": [
            absent
            | {
                "asset": "prompts",
                "partition": "t0",
                "action": "will",
                "why": ["rows of the source"],
                "rows": changes,
            },
            absent
            | {
                "asset": "teacher_outputs",
                "partition": "t0",
                "action": "will",
                "why": ["prompts changed"],
                "calls": calls,
            },
            absent | {"asset": "dataset", "action": "will", "why": ["1 of its prompts are changed or removed"]},
        ],
        "failed": {},
        "rows": changes,
        "calls": calls,
        "sequences": 0,
        "evaluation_calls": [],
        "notes": [],
    }


def test_it_loads_neither_torch_nor_dagster_and_needs_no_key(declare: Declare) -> None:
    distillation = declare(SPEC + STUDENTS, rows__jsonl=rows())
    program = (
        "import sys\n"
        "from distill_dagster.cli import main\n"
        f"main(['--project', {str(distillation.project.root)!r}, 'plan', 'demo'], standalone_mode=False)\n"
        "loaded = {'torch', 'transformers', 'dagster', 'anthropic'}.intersection(sys.modules)\n"
        "assert not loaded, loaded\n"
    )

    ended = subprocess.run([sys.executable, "-c", program], env=dict(os.environ), capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr
    assert "teacher calls: 30 needed, 0 stored" in ended.stdout
    assert not distillation.project.home.exists()
