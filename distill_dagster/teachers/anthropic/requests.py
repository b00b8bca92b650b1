"""What is sent to Anthropic and what comes back, the same over both transports: bodies and answers, without the SDK."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill_dagster.lineage.hashing import canonical_json
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.money.prices import Price
from distill_dagster.teachers.protocol import Response, ResponseStatus, Usage

STATUS = {
    "end_turn": ResponseStatus.ANSWERED,
    "stop_sequence": ResponseStatus.ANSWERED,
    "max_tokens": ResponseStatus.TRUNCATED,
    "model_context_window_exceeded": ResponseStatus.TRUNCATED,
    "refusal": ResponseStatus.REFUSED,
    "tool_use": ResponseStatus.TOOL_USE,
    "pause_turn": ResponseStatus.TOOL_USE,
}
KEY_VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
# Shorter prefixes than about 1,024 tokens are not cached.
CACHED_FROM_BYTES = 4_096
EPHEMERAL = {"type": "ephemeral"}


class UnreadableAnswerError(Exception):
    """A body that is no message: it was perhaps billed all the same."""


@dataclass(frozen=True)
class Requests:
    """Writes request bodies.

    Attributes:
        spec: the teacher.
        schema: JSON Schema that answers are held to.
        shared_turns: few-shot turns that every conversation begins with, after its system prompt.
    """

    spec: TeacherSpec
    schema: Mapping[str, Any] | None = None
    shared_turns: int = 0

    def body(self, messages: str) -> dict[str, Any]:
        """The body of one request.

        Args:
            messages: the conversation as canonical JSON, system prompt included.
        """
        turns: list[dict[str, Any]] = json.loads(messages)
        body: dict[str, Any] = {"model": self.spec.model, "max_tokens": self.spec.max_tokens}
        if turns[0]["role"] == "system":
            body["system"] = turns.pop(0)["content"]
        body["messages"] = turns
        if self.spec.prompt_cache:
            self._mark(body)
        if self.spec.stop_sequences:
            body["stop_sequences"] = self.spec.stop_sequences
        output: dict[str, Any] = {"effort": self.spec.effort} if self.spec.effort else {}
        if self.schema is not None:
            output["format"] = {"type": "json_schema", "schema": dict(self.schema)}
        if output:
            body["output_config"] = output
        if self.spec.thinking_tokens:
            body["thinking"] = {"type": "enabled", "budget_tokens": self.spec.thinking_tokens}
        return body

    def _mark(self, body: dict[str, Any]) -> None:
        """Marks the end of what all requests share: the few-shot examples, else the system prompt."""
        system, turns = str(body.get("system", "")), body["messages"]
        shared = turns[: self.shared_turns]
        if len(system) + sum(len(turn["content"]) for turn in shared) < CACHED_FROM_BYTES:
            return
        if shared:
            shared[-1]["content"] = [{"type": "text", "text": shared[-1]["content"], "cache_control": EPHEMERAL}]
        else:
            body["system"] = [{"type": "text", "text": system, "cache_control": EPHEMERAL}]


def read_message(key: str, message: Any, price: Price, *, batched: bool) -> Response:
    """The answer in a Message object.

    Args:
        key: the request key.
        message: the API's Message, as JSON values.
        price: what its tokens cost.
        batched: whether it came through a batch.

    Raises:
        UnreadableAnswerError: it is no Message.
    """
    try:
        content, counted = message["content"], message["usage"]
        written = counted.get("cache_creation_input_tokens") or 0
        read = counted.get("cache_read_input_tokens") or 0
        input_tokens = counted["input_tokens"] + written + read
        output_tokens = counted["output_tokens"]
        text = "".join(block["text"] for block in content if block["type"] == "text")
        stop_reason = message["stop_reason"]
        details = message.get("stop_details")
        response_id = message["id"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableAnswerError(f"no message: {type(error).__name__}") from None
    cost = price.microusd(
        input_tokens, output_tokens, cache_write_tokens=written, cache_read_tokens=read, batched=batched
    )
    return Response(
        request_key=key,
        status=STATUS.get(stop_reason, ResponseStatus.TRUNCATED),
        stop_reason=stop_reason,
        text=text or None,
        content=canonical_json(content),
        usage=Usage(input_tokens, output_tokens, cost, written, read),
        detail=((details or {}).get("category") or "uncategorised") if stop_reason == "refusal" else None,
        response_id=response_id,
    )


def final_error(key: str, text: str) -> Response:
    """An error that asking again cannot mend, as an unbilled answer."""
    return Response(key, ResponseStatus.ERROR, None, None, "[]", Usage(0, 0), detail=text)
