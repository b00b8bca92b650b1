"""What counts as a verdict, and what does not."""

import pytest

from distill_dagster.judging.replies import JSON_REPLY, WORD_REPLY, reply_form


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ('{"verdict": "first"}', "first"),
        (' {"verdict":"second"}\n', "second"),
        ('{"verdict": "tie"}', "tie"),
        ('{"verdict": "First"}', None),
        ('{"verdict": "third"}', None),
        ('{"verdict": ["first"]}', None),
        ('{"verdict": null}', None),
        ('{"verdict": "first", "why": "kind"}', None),
        ('{"verdict": "second", "verdict": "first"}', None),
        ('[["verdict", "first"]]', None),
        ('```json\n{"verdict": "first"}\n```', None),
        ('"first"', None),
        ("first", None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_json_is_read_strictly(reply: str, choice: str | None) -> None:
    assert JSON_REPLY.read(reply) == choice


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("first", "first"),
        ("Second.", "second"),
        ("**TIE**", "tie"),
        ('"first"\n', "first"),
        ("The first", None),
        ("first or second", None),
        ("1", None),
        ('{"verdict": "first"}', None),
        ("", None),
    ],
)
def test_a_word_is_read_strictly(reply: str, choice: str | None) -> None:
    assert WORD_REPLY.read(reply) == choice


def test_only_hosted_judges_are_held_to_a_schema() -> None:
    assert reply_form(is_local=False).schema == {
        "type": "object",
        "properties": {"verdict": {"type": "string", "enum": ["first", "second", "tie"]}},
        "required": ["verdict"],
        "additionalProperties": False,
    }
    assert reply_form(is_local=True).schema is None
