"""How a judge replies: JSON of a schema where its provider holds it to one, else one word; and what a reply says."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distill_dagster.metrics import label_form

FIRST, SECOND, TIE = CHOICES = ("first", "second", "tie")
VERDICT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": list(CHOICES)}},
    "required": ["verdict"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class ReplyForm:
    """A form of reply.

    Attributes:
        instruction: the sentence that asks for it.
        schema: the JSON Schema that a provider holds the judge to, if any.
        read: the choice (`first`, `second` or `tie`) in a reply; None where it is anything else.
    """

    instruction: str
    schema: dict[str, Any] | None
    read: Callable[[str], str | None]


def _read_json(reply: str) -> str | None:
    try:
        said = json.loads(reply, object_pairs_hook=tuple)  # as pairs, so that a key said twice is seen
    except (ValueError, RecursionError):
        return None
    return next((choice for choice in CHOICES if said == (("verdict", choice),)), None)


def _read_word(reply: str) -> str | None:
    word = label_form(reply)
    return word if word in CHOICES else None


JSON_REPLY = ReplyForm(
    'Answer with JSON alone: {"verdict": "first"}, {"verdict": "second"} or {"verdict": "tie"}.',
    VERDICT_SCHEMA,
    _read_json,
)
WORD_REPLY = ReplyForm("Answer with one word alone: first, second or tie.", None, _read_word)


def reply_form(is_local: bool) -> ReplyForm:
    """JSON of hosted judges, whose providers hold them to a schema; one word of local ones, which nothing holds."""
    return WORD_REPLY if is_local else JSON_REPLY
