"""The `evaluation.judge:` block: a judge that can be asked, and mistakes said where they stand."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from pydantic import ValidationError

from distill_dagster.errors import SpecError
from distill_dagster.project import Distillation
from distill_dagster.spec.judge import PairJudgeSpec

Declare = Callable[..., Distillation]
DECLARED = """
prompts: {{source: {{jsonl: rows.jsonl}}, prompt: "{{{{ question }}}}"}}
teacher: {teacher}
evaluation:
  judge: {judge}
"""
HOSTED = "{provider: anthropic, model: claude-opus-5-5}"


def declared(judge: str, teacher: str = "{provider: anthropic, model: claude-haiku-4-5}") -> str:
    return DECLARED.format(judge=judge, teacher=teacher)


def test_a_judge_needs_provider_and_model_only(declare: Declare) -> None:
    judge = declare(declared(HOSTED)).spec.evaluation.judge

    assert judge is not None
    assert (judge.rows, judge.against, judge.max_tokens, judge.is_local) == (200, ["teacher"], 256, False)
    assert judge.label == "claude-opus-5-5 (anthropic)"


def test_a_judge_is_a_teacher_of_verdicts() -> None:
    judge = PairJudgeSpec.model_validate(
        {
            "provider": "openai",
            "model": "m",
            "base_url": "http://here/v1",
            "revision": "r",
            "temperature": 0,
            "requests_per_minute": 9,
            "prices": {"input": 1, "output": 2},
            "rubric": "Kind.",
            "rows": 3,
            "against": ["base"],
        }
    )

    teacher = judge.as_teacher({"type": "object"})

    assert (teacher.provider, teacher.model, teacher.base_url, teacher.revision) == (
        "openai",
        "m",
        "http://here/v1",
        "r",
    )
    assert (teacher.temperature, teacher.requests_per_minute, teacher.max_tokens) == (0, 9, 256)
    assert teacher.prices == judge.prices
    assert teacher.json_schema == {"type": "object"}
    assert teacher.samples == 1


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("{model: m}", "evaluation.judge.provider: missing"),
        ("{provider: openai, model: m}", "evaluation.judge: base_url: needed for provider openai"),
        ("{provider: transformers, model: m, effort: low}", "effort: only for provider anthropic (provider is transf"),
        ("{provider: anthropic, model: m, dtype: float32}", "dtype: only for provider transformers"),
        ("{provider: anthropic, model: m, thinking_tokens: 2000}", "max_tokens: 256 leaves no room for a verdict"),
        (
            "{provider: anthropic, model: m, against: [base, base]}",
            "against: name each opponent once (seen: base, base",
        ),
        ("{provider: anthropic, model: m, against: []}", "evaluation.judge.against: list should have at least 1"),
        ("{provider: anthropic, model: m, rubrik: Kind.}", "did you mean `rubric`?"),
        ("{provider: anthropic, model: m, against: [reference]}", "no references; name their column"),
    ],
)
def test_a_mistake_is_said(declare: Declare, judge: str, message: str) -> None:
    with pytest.raises(SpecError) as raised:
        declare(declared(judge))
    assert message in str(raised.value)


def test_room_for_thinking_and_a_verdict_is_enough() -> None:
    PairJudgeSpec(provider="anthropic", model="m", thinking_tokens=1024, max_tokens=1280)

    with pytest.raises(ValidationError, match="write at least 1280"):
        PairJudgeSpec(provider="anthropic", model="m", thinking_tokens=1024, max_tokens=1024)


def test_a_local_teacher_has_a_budget_only_for_a_hosted_judge(declare: Declare) -> None:
    local = "{provider: transformers, model: m, budget_usd: 3}"

    assert declare(declared(HOSTED, local)).spec.teacher.budget_usd == Decimal(3)
    with pytest.raises(SpecError, match=r"teacher\.budget_usd: only for a hosted teacher or evaluation\.judge"):
        declare(declared("{provider: transformers, model: n}", local))
