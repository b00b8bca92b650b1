"""A variant is the declaration with a few keys changed, validated like any other."""

from collections.abc import Callable

import pytest

from distill_dagster.errors import SpecError
from distill_dagster.project import Distillation
from distill_dagster.variants.make import DECLARED, declared_values, make_designs
from tests.variants.designs import SPEC

Declare = Callable[..., Distillation]


def with_variants(*lines: str, spec: str = SPEC) -> str:
    """The declaration with other variants."""
    head, rest = spec.split("  variants:\n")
    return head + "  variants:\n" + "".join(f"    {line}\n" for line in lines) + rest[rest.index("evaluation:") :]


def test_each_variant_changes_its_keys_and_nothing_else(declare: Declare) -> None:
    declared, brief, opus = make_designs(declare(SPEC))

    assert [design.name for design in (declared, brief, opus)] == [DECLARED, "brief", "opus"]
    assert brief.changes == {"system": "Be brief."}
    assert brief.distillation.spec.prompts.system == "Be brief."
    assert brief.distillation.spec.teacher == declared.distillation.spec.teacher
    assert opus.distillation.spec.teacher.model == "claude-opus-5-5"
    assert opus.distillation.spec.prompts.prompt == "Kindly: {{ question }}"
    assert opus.distillation.spec.prompts.system == "Be thorough."


def test_every_design_asks_single_messages(declare: Declare) -> None:
    assert {design.distillation.spec.teacher.transport for design in make_designs(declare(SPEC))} == {"messages"}


def test_null_takes_a_declared_value_away_and_an_empty_list_the_examples(declare: Declare) -> None:
    spec = SPEC.replace(
        "  system: Be thorough.", '  system: Be thorough.\n  few_shot: [{prompt: "One?", completion: Two.}]'
    )

    _, bare, plain = make_designs(declare(with_variants("bare: {system: null}", "plain: {few_shot: []}", spec=spec)))

    assert bare.distillation.spec.prompts.system is None
    assert bare.distillation.spec.prompts.few_shot is not None
    assert plain.distillation.spec.prompts.few_shot == []


def test_declared_values_are_those_that_any_variant_changes(declare: Declare) -> None:
    values = declared_values(declare(SPEC))

    assert values == {"prompt": "{{ question }}", "system": "Be thorough.", "model": "claude-haiku-4-5"}


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("declared: {system: Other.}", r"teacher\.variants\.declared: the declared design goes by that name"),
        ("bad: {prompt: null}", r"teacher\.variants\.bad: prompts: write either `prompt: <template>`"),
        ("bad: {model: null}", r"teacher\.variants\.bad: teacher\.model: input should be a valid string"),
    ],
)
def test_a_variant_that_does_not_fit_is_named(declare: Declare, variant: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_designs(declare(with_variants(variant)))


def test_other_providers_have_their_own_keys(declare: Declare) -> None:
    openai = """
prompts: {source: {jsonl: rows.jsonl}, prompt: "{{ question }}"}
teacher:
  provider: openai
  model: some-model
  base_url: http://localhost:9
  prices: {input: 0, output: 0}
  variants:
    VARIANT
"""
    assert len(make_designs(declare(openai.replace("VARIANT", "short: {max_tokens: 20}")))) == 2
    with pytest.raises(SpecError, match=r"teacher\.variants\.hard: teacher: effort: only for provider anthropic"):
        make_designs(declare(openai.replace("VARIANT", "hard: {effort: high}")))


def test_without_variants_there_is_nothing_to_compare(declare: Declare) -> None:
    head, rest = SPEC.split("  variants:\n")
    with pytest.raises(SpecError, match=r"nothing to compare; write e\.g\. `teacher\.variants:"):
        make_designs(declare(head + rest[rest.index("evaluation:") :]))
