"""Declared conversations and few-shot files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_dagster.errors import SourceError
from distill_dagster.prompts.messages import dump_messages, few_shot_turns, parse_conversation, user_text
from distill_dagster.prompts.rows import RowError


def turn(role: str, content: Any = "text", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def test_a_conversation_comes_as_a_list_or_as_json() -> None:
    turns = [turn("system", "Be kind."), turn("user", "やあ"), turn("assistant", "Hi!", name=None), turn("user", "👋")]

    conversation = parse_conversation(turns, "chat")

    assert parse_conversation(json.dumps(turns), "chat") == conversation
    assert parse_conversation(dump_messages(conversation), "chat") == conversation
    assert user_text(conversation) == "やあ\n👋"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "must hold a list"),
        ([], "at least one turn"),
        ("plain text", "not JSON"),
        (["hi"], r"chat\[0\] must be an object"),
        ([turn("robot")], r"chat\[0\]\.role must be one of"),
        ([turn("user", " ")], r"chat\[0\]\.content is empty"),
        ([turn("user", ["a"])], r"chat\[0\]\.content must be text"),
        ([turn("user", weight=1)], "has 'weight'"),
        ([turn("user"), turn("assistant")], "the first and the last turn must be the user's"),
        ([turn("assistant"), turn("user")], "the first and the last turn must be the user's"),
        ([turn("system")], "the first and the last turn must be the user's"),
        ([turn("user"), turn("system"), turn("user")], "can only come first"),
    ],
)
def test_other_conversations_are_bad_rows(value: Any, message: str) -> None:
    with pytest.raises(RowError, match=message):
        parse_conversation(value, "chat")


def test_few_shot_examples_alternate(folder: Path, write_rows: Callable[..., Path]) -> None:
    write_rows([{"prompt": "1+1", "completion": "2"}, {"prompt": "2+2", "completion": "4"}], "shots.jsonl")

    turns = few_shot_turns("shots.jsonl", folder, folder)

    assert [(t.role, t.content) for t in turns] == [
        ("user", "1+1"),
        ("assistant", "2"),
        ("user", "2+2"),
        ("assistant", "4"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"shots\.jsonl:2: not valid JSON"),
        ({"prompt": "a"}, r"shots\.jsonl:2: write"),
        ({"prompt": "a", "completion": ""}, r"shots\.jsonl:2: write"),
        ({"prompt": "a", "completion": "b", "extra": 1}, r"shots\.jsonl:2: write"),
    ],
)
def test_a_wrong_few_shot_line_is_named(
    folder: Path, write_rows: Callable[..., Path], row: dict[str, Any] | str, message: str
) -> None:
    write_rows([{"prompt": "1+1", "completion": "2"}, row], "shots.jsonl")

    with pytest.raises(SourceError, match=message):
        few_shot_turns("shots.jsonl", folder, folder)


def test_a_few_shot_file_must_be_there_and_have_examples(folder: Path) -> None:
    (folder / "empty.jsonl").write_text("\n")

    for name, message in (
        ("none.jsonl", "no file"),
        ("empty.jsonl", "no examples"),
        ("../../../x", "leaves the project"),
    ):
        with pytest.raises(SourceError, match=message):
            few_shot_turns(name, folder, folder)
