"""`distill estimate` as a user calls it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from distill_dagster.cli import main
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from tests.fakes.anthropic_server import AnthropicServer
from tests.teachers.hosted import answer, rows, spec

Declare = Callable[..., Distillation]
KEYS = {
    "format",
    "distillation",
    "provider",
    "model",
    "partitions",
    "failed",
    "requests",
    "transport",
    "input_tokens",
    "output_tokens",
    "messages",
    "batches",
    "budget",
    "basis",
    "notes",
    "capture",
    "judge",
}


def call(distillation: Distillation, *arguments: str) -> Result:
    command = ["--project", str(distillation.project.root), "estimate", distillation.name, *arguments]
    return CliRunner().invoke(main, command, env={"COLUMNS": "140"})


def test_a_table_and_one_closing_sentence_without_a_key(declare: Declare) -> None:
    result = call(declare(spec("budget_usd: 25"), rows__jsonl=rows(10)))

    assert result.exit_code == 0
    assert "an upper bound, max_tokens (50) each" in result.stdout
    last = result.stdout.strip().splitlines()[-1]
    assert last.startswith("up to about $0.0")
    assert last.endswith("budget $25.00, $0.00 spent")


def test_with_a_key_a_sample_is_counted_and_nothing_billed(declare: Declare, claude: AnthropicServer) -> None:
    result = call(declare(spec(), rows__jsonl=rows(10)))

    assert result.exit_code == 0
    assert "count tokens: 10/10 requests" in result.stderr
    assert "each of 10 requests counted by the provider" in result.stdout
    assert (claude.counted, claude.accepted) == (10, [])


def test_json_is_a_contract(declare: Declare, claude: AnthropicServer) -> None:
    result = call(declare(spec("budget_usd: 1"), rows__jsonl=rows(4)), "--json", "--tokens", "exact")

    content = json.loads(result.stdout)
    assert set(content) == KEYS
    assert content["format"] == 1
    assert content["requests"] == {"needed": 4, "stored": 0, "in_batches": 0, "missing": 4}
    assert set(content["input_tokens"]) == {"expected", "low", "high", "method", "rows", "basis"}
    assert set(content["messages"]) == set(content["batches"]) == {"expected_microusd", "most_microusd"}
    assert content["budget"] == {
        "limit_microusd": 1_000_000,
        "spent_microusd": 0,
        "left_microusd": 1_000_000,
        "expected_fits": True,
        "most_fits": True,
    }
    assert set(content["basis"]) == {"requests", "expected", "at_most", "budget"}


def test_when_all_is_there_nothing_is_asked(declare: Declare, claude: AnthropicServer) -> None:
    distillation = declare(spec(), rows__jsonl=rows(3))
    answer(distillation)

    result = call(distillation)

    assert result.stdout.strip().splitlines()[-1] == "nothing to ask: all 3 answers are there"


@pytest.mark.parametrize(
    ("budget", "said"),
    [("0.001", "not enough for what is expected"), ("0.0029", "enough for what is expected, not for")],
)
def test_a_budget_that_is_too_small_is_said(declare: Declare, budget: str, said: str) -> None:
    assert said in call(declare(spec(f"budget_usd: {budget}"), rows__jsonl=rows(10))).stdout


def test_errors_are_one_line(declare: Declare) -> None:
    distillation = declare(spec(), rows__jsonl=rows(3))

    missing_key = call(distillation, "--tokens", "exact")
    stranger = call(distillation, "--partition", "other")

    assert (missing_key.exit_code, stranger.exit_code) == (1, 1)
    assert missing_key.stderr.startswith("error: --tokens exact counts with Anthropic's API")
    assert stranger.stderr == "error: no partition other in the source (known: all)\n"


def test_a_local_teacher_is_free(declare: Declare, tiny_model: Path) -> None:
    local = 'prompts: {source: {jsonl: rows.jsonl}, prompt: "{{ question }}"}\n'
    distillation = declare(f"{local}teacher: {{provider: transformers, model: {tiny_model}}}", rows__jsonl=rows(3))

    result = call(distillation)
    as_json = json.loads(call(distillation, "--json").stdout)

    assert result.stdout.strip().endswith("3 answers are missing; calls of a local teacher cost no money")
    assert [as_json[name] for name in ("input_tokens", "messages", "batches", "budget")] == [None] * 4


def test_a_judge_is_estimated_before_there_is_any_answer(declare: Declare, claude: AnthropicServer) -> None:
    """Nothing but prompts is there: test rows, two opponents, two orders, answers as long as they may be."""
    students = "students: {one: {base: {model: org/model}}, two: {base: {model: org/model}}}"
    judge = "{provider: anthropic, model: claude-opus-5-5, against: [teacher, base]}"
    distillation = declare(f"{spec()}\n{students}\nevaluation: {{judge: {judge}}}\n", rows__jsonl=rows(60))

    result, found = call(distillation), json.loads(call(distillation, "--json").stdout)["judge"]

    test_rows = sum(made.frame["split"].eq("test").sum() for made in build_prompts(distillation).partitions.values())
    assert (found["judge"], found["pairs"]) == ("claude-opus-5-5 (anthropic)", 2 * 2 * test_rows)
    assert (found["missing"], found["stored"], found["without_call"]) == (8 * test_rows, 0, 0)
    assert found["basis"] == "answers of one, two taken to be 50 tokens of 4 bytes, as no answer is in a dataset yet"
    dollars_more = f"the judge: at most ${found['most_microusd'] / 1e6:.4f} more, from the same budget"
    assert result.stdout.strip().splitlines()[-1] == dollars_more
    assert claude.accepted == []
    assert not (distillation.project.home / "responses.sqlite").exists()


@pytest.mark.parametrize("without", ["students", "judge"])
def test_without_students_or_judge_there_is_nothing_to_judge(declare: Declare, without: str) -> None:
    blocks = {
        "students": "students: {one: {base: {model: org/model}}}",
        "judge": "evaluation: {judge: {provider: anthropic, model: claude-opus-5-5}}",
    }
    kept = "\n".join(block for name, block in blocks.items() if name != without)

    assert json.loads(call(declare(f"{spec()}\n{kept}\n", rows__jsonl=rows(3)), "--json").stdout)["judge"] is None
