"""Templates: what they print, and how their mistakes are told."""

import pytest

from distill_dagster.errors import TemplateError
from distill_dagster.prompts.rows import RowError
from distill_dagster.prompts.templates import compile_template


def test_a_template_prints_columns_as_written() -> None:
    template = compile_template("{{ q }} <{{ n }}> {{ on }} {{ tags }}\n", "prompts.prompt")

    assert template.render({"q": "¿Qué & por qué?", "n": 1.5, "on": True, "tags": ["a", 1]}) == (
        '¿Qué & por qué? <1.5> true ["a",1]'
    )


def test_a_template_knows_which_columns_the_source_must_have() -> None:
    text = "{% for t in tags %}{{ loop.index }}{{ t }}{% endfor %}{% set x = q %}{{ x }}{{ range(2) }}"

    assert compile_template(text, "prompts.prompt").columns == {"tags", "q"}


def test_a_null_is_not_printed_but_can_be_tested() -> None:
    with pytest.raises(RowError, match=r"prompts\.prompt prints column 'context', which is null here"):
        compile_template("{{ q }} {{ context }}", "prompts.prompt").render({"q": "a"})

    assert compile_template("{{ q }}{% if context %}!{% endif %}{{ context or '' }}", "p").render({"q": "a"}) == "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\n{{ q ", r"prompts\.prompt: line 2: "),
        ("{% if q %}", r"prompts\.prompt: line 1: "),
        ("{{ q | nonsense }}", r"No filter named 'nonsense'"),
        ("{{ q | random }}", r"No filter named 'random'"),
        ("a\n{% include 'other' %}", r"line 2: one template cannot load another"),
    ],
)
def test_a_wrong_template_names_its_line(text: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        compile_template(text, "prompts.prompt")


def test_an_absent_column_is_told_with_the_likeliest_one() -> None:
    template = compile_template("{{ qestion }}", "prompts.prompt")

    with pytest.raises(
        TemplateError, match=r"no column 'qestion' \(it has: answer, question\); did you mean 'question'"
    ):
        template.check_columns({"question", "answer"})


@pytest.mark.parametrize(
    "text", ["{{ q.__class__.__mro__ }}", "{{ tags.append(1) }}", "{{ q.nothing }}", "{{ 1 // 0 }}", "{{ lipsum() }}"]
)
def test_the_sandbox_turns_mischief_and_mistakes_into_bad_rows(text: str) -> None:
    with pytest.raises(RowError, match=r"prompts\.prompt"):
        compile_template(text, "prompts.prompt").render({"q": "a", "tags": []})
