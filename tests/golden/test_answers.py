"""The teacher's answers to golden rows, over real HTTP: paid once, at once, within the budget."""

import json
from collections.abc import Callable

import pytest

from distill_dagster.errors import BudgetError
from distill_dagster.golden.answers import answering_identity, golden_answers
from distill_dagster.golden.build import build_golden_set
from distill_dagster.project import Distillation
from distill_dagster.teachers.asking.obtaining import Purse
from distill_dagster.worker_process import no_launch
from tests.fakes.anthropic_server import AnthropicServer, Reply, prompt_of, refusal

ATTRIBUTES = """
prompts: {{source: {{jsonl: rows.jsonl}}, prompt: "{{{{ q }}}}", system: Be brief.}}
golden_set: {{jsonl: golden.jsonl}}
teacher: {{provider: anthropic, model: claude-haiku-4-5, max_tokens: 50, {teacher}}}
"""
GOLDEN = "".join(json.dumps({"q": text, "reference": "So.", "verified": True}) + "\n" for text in ("How?", "Why?"))
Ask = Callable[..., dict[str, str | None]]


@pytest.fixture
def ask(declare: Callable[..., Distillation]) -> Ask:
    def answers(teacher: str = "transport: batches") -> dict[str, str | None]:
        distillation = declare(ATTRIBUTES.format(teacher=teacher), golden__jsonl=GOLDEN)
        golden = build_golden_set(distillation).frame
        found = golden_answers(distillation, golden, no_launch, Purse(distillation))
        return dict(golden.join(found, on="prompt_id").select("text", "completion").iter_rows())

    return answers


def test_they_are_asked_at_once_and_paid_once(ask: Ask, claude: AnthropicServer) -> None:
    claude.script = lambda body, seen: Reply(text=f"{prompt_of(body)} Because.")

    first, again = ask(), ask()

    assert first == again == {"How?": "How? Because.", "Why?": "Why? Because."}
    assert sorted(claude.accepted) == ["How?", "Why?"]
    assert not claude.batches


def test_a_refusal_is_no_answer(ask: Ask, claude: AnthropicServer) -> None:
    claude.script = lambda body, seen: refusal() if prompt_of(body) == "How?" else Reply(text="So.")

    assert ask() == {"How?": None, "Why?": "So."}


def test_labels_are_written_as_they_are_declared(ask: Ask, claude: AnthropicServer) -> None:
    claude.script = lambda body, seen: Reply(text="**YES**." if prompt_of(body) == "How?" else "perhaps")

    assert ask("labels: ['yes', 'no']") == {"How?": "yes", "Why?": "perhaps"}


def test_the_budget_stops_them_and_the_key_is_named(ask: Ask, claude: AnthropicServer) -> None:
    with pytest.raises(BudgetError, match=r"evaluation\.gate: "):
        ask("budget_usd: 0.000001")
    assert not claude.accepted


def test_the_identity_follows_the_teacher_and_not_how_it_is_reached(declare: Callable[..., Distillation]) -> None:
    declared = [declare(ATTRIBUTES.format(teacher=more)) for more in ("transport: batches", "transport: messages")]
    other = declare(ATTRIBUTES.replace("max_tokens: 50", "max_tokens: 60").format(teacher="transport: auto"))

    assert len({answering_identity(one) for one in declared}) == 1
    assert answering_identity(other) != answering_identity(declared[0])
