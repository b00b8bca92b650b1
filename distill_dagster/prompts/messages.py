"""Conversations: checking a declared one, reading few-shot examples, and the JSON form in which they are stored."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from distill_dagster.errors import SourceError, StorageError
from distill_dagster.lineage.hashing import canonical_json
from distill_dagster.prompts.rows import BadRow, RowError
from distill_dagster.prompts.source_files import read_jsonl
from distill_dagster.spec.prompts import FewShot
from distill_dagster.storage import contained

Role: TypeAlias = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
_FEW_SHOT_ROW_BYTES = 1_048_576


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


Conversation: TypeAlias = tuple[Message, ...]


def dump_messages(conversation: Sequence[Message]) -> str:
    """Canonical JSON of a conversation: the form of the `messages` columns."""
    return canonical_json([{"content": message.content, "role": message.role} for message in conversation])


def user_text(conversation: Sequence[Message]) -> str:
    """The user turns, joined by newlines."""
    return "\n".join(message.content for message in conversation if message.role == "user")


def parse_conversation(value: Any, column: str) -> Conversation:
    """A row's own conversation: a list of {role, content}, or that list as JSON text.

    A system message may come first; after it the first and the last turn are the user's.

    Raises:
        RowError: anything else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise RowError(f"column {column!r} is text but not JSON; write a list of {{role, content}}") from None
    if not isinstance(value, list) or not value:
        raise RowError(f"column {column!r} must hold a list of {{role, content}} with at least one turn")
    conversation = tuple(_message(item, f"{column}[{index}]") for index, item in enumerate(value))
    late = next((i for i, message in enumerate(conversation) if message.role == "system" and i > 0), None)
    if late is not None:
        raise RowError(f"{column}[{late}]: a system message can only come first")
    turns = conversation[1:] if conversation[0].role == "system" else conversation
    if not turns or turns[0].role != "user" or turns[-1].role != "user":
        raise RowError(f"column {column!r}: the first and the last turn must be the user's")
    return conversation


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise RowError(f"{where} must be an object {{role, content}}")
    unknown = sorted(key for key, value in item.items() if key not in {"role", "content"} and value is not None)
    if unknown:
        raise RowError(f"{where} has {unknown[0]!r}; only role and content are understood, remove it")
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        raise RowError(f"{where}.role must be one of {', '.join(ROLES)} (seen: {role!r})")
    if not isinstance(content, str):
        raise RowError(f"{where}.content must be text")
    if not content.strip():
        raise RowError(f"{where}.content is empty")
    return Message(cast(Role, role), content)


def few_shot_turns(examples: FewShot | None, folder: Path, project_root: Path) -> Conversation:
    """Few-shot examples as alternating user and assistant turns, in their order.

    Args:
        examples: the examples, or a JSON-lines file of {prompt, completion}, relative to `folder`.

    Raises:
        SourceError: the file is missing, empty, outside the project, or a line of it is wrong; with file and line.
    """
    if isinstance(examples, str):
        return _read_few_shot(examples, folder, project_root)
    pairs = ((Message("user", example.prompt), Message("assistant", example.completion)) for example in examples or ())
    return tuple(turn for pair in pairs for turn in pair)


def _read_few_shot(name: str, folder: Path, project_root: Path) -> Conversation:
    try:
        path = contained(project_root, str((folder / name).absolute()))
    except StorageError as error:
        raise SourceError(f"prompts.few_shot: {error}") from None
    if not path.is_file():
        raise SourceError(f"prompts.few_shot: no file {name!r} in {folder}; write it or correct the name")
    turns: list[Message] = []
    for row in read_jsonl(name, path, _FEW_SHOT_ROW_BYTES):
        if isinstance(row, BadRow):
            raise SourceError(f"prompts.few_shot: {row}")
        pair = [row.values.get(key) for key in ("prompt", "completion")]
        if set(row.values) != {"prompt", "completion"} or not all(isinstance(t, str) and t.strip() for t in pair):
            raise SourceError(
                f'prompts.few_shot: {row.where}: write {{"prompt": …, "completion": …}}, both non-empty text'
            )
        turns += [Message("user", cast(str, pair[0])), Message("assistant", cast(str, pair[1]))]
    if not turns:
        raise SourceError(f"prompts.few_shot: {name} has no examples; add some or remove the key")
    return tuple(turns)
