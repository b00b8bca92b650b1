"""What is sent to an OpenAI-compatible server and what comes back: bodies and answers, without the SDK."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from distill_dagster.lineage.hashing import canonical_json
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.money.prices import Price
from distill_dagster.teachers.protocol import Response, ResponseStatus, Usage

KEY_VARIABLE = "OPENAI_API_KEY"
STATUS = {
    "stop": ResponseStatus.ANSWERED,  # stop sequences included
    "length": ResponseStatus.TRUNCATED,
    "content_filter": ResponseStatus.REFUSED,
    "tool_calls": ResponseStatus.TOOL_USE,
    "function_call": ResponseStatus.TOOL_USE,
}
# The server broke off: what came is no answer. vLLM says `abort`, gateways say `error`.
BROKEN_OFF = ("abort", "error")
# Where a reasoning parser's findings go: older vLLM, DeepSeek and llama.cpp; newer vLLM, Ollama and OpenRouter.
THINKING_FIELDS = ("reasoning_content", "reasoning")
MOST_TOKENS = 2**31 - 1
STORED_REASON_CHARS = 64


class UnreadableAnswerError(Exception):
    """A body that is no chat completion: it was perhaps billed all the same."""


class UnknownCostError(Exception):
    """A chat completion that does not say how many tokens it took."""


@dataclass(frozen=True)
class Requests:
    """Writes request bodies.

    Attributes:
        spec: the teacher.
        schema: JSON Schema that answers are held to.
    """

    spec: TeacherSpec
    schema: Mapping[str, Any] | None = None

    def body(self, messages: str, sample: int) -> dict[str, Any]:
        """The body of one request.

        `max_tokens` has a newer name, `max_completion_tokens`, but not every server knows it.

        Args:
            messages: the conversation as canonical JSON; a system prompt stays its first message.
            sample: added to the seed, so that samples differ.
        """
        spec = self.spec
        body: dict[str, Any] = {"model": spec.model, "messages": json.loads(messages), "max_tokens": spec.max_tokens}
        if spec.stop_sequences:
            body["stop"] = list(spec.stop_sequences)
        if spec.temperature is not None:
            body["temperature"] = spec.temperature
        if spec.top_p is not None:
            body["top_p"] = spec.top_p
        if spec.seed is not None:
            body["seed"] = spec.seed + sample
        if self.schema is not None:
            held_to = {"name": "answer", "schema": dict(self.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": held_to}
        return body


def read_completion(key: str, content: bytes, price: Price) -> Response:
    """The answer in the body of a chat completion.

    Args:
        key: the request key.
        content: the body.
        price: what its tokens cost.

    Raises:
        UnreadableAnswerError: it is no chat completion.
        UnknownCostError: it has no usage, and tokens are not free.
    """
    try:
        completion = json.loads(content)
        choice = completion["choices"][0]
        message = choice["message"]
        text, thinking = _text(message.get("content")), _thinking(message)
        stored = canonical_json([message])
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        raise UnreadableAnswerError("no chat completion") from None
    reason = choice.get("finish_reason")
    if reason in BROKEN_OFF:
        raise UnreadableAnswerError(f"the server broke off: {reason}")
    status, detail = _ending(reason, message)
    return Response(
        request_key=key,
        status=status,
        stop_reason=reason[:STORED_REASON_CHARS] if isinstance(reason, str) else None,
        text=text,
        content=stored,
        usage=_usage(completion.get("usage"), price),
        thinking=thinking,
        detail=detail,
        response_id=completion["id"] if isinstance(completion.get("id"), str) else None,
    )


def is_free(price: Price) -> bool:
    """Whether tokens cost nothing, however many."""
    return not any(band.input or band.output for band in price.bands)


def final_error(key: str, text: str) -> Response:
    """An error that asking again cannot mend, as an unbilled answer."""
    return Response(key, ResponseStatus.ERROR, None, None, "[]", Usage(0, 0), detail=text)


def _ending(reason: Any, message: Mapping[str, Any]) -> tuple[ResponseStatus, str | None]:
    """Status and refusal category; an end that nobody documents may be an early one."""
    if reason == "content_filter":
        return ResponseStatus.REFUSED, "content_filter"
    if message.get("refusal"):
        return ResponseStatus.REFUSED, "refusal"
    return STATUS.get(str(reason), ResponseStatus.TRUNCATED), None


def _text(content: Any) -> str | None:
    """The answer's text, which some gateways send in parts."""
    if content is None or isinstance(content, str):
        return content or None
    return "".join(part["text"] for part in content if part["type"] == "text") or None


def _thinking(message: Mapping[str, Any]) -> str | None:
    fields = (message.get(name) for name in THINKING_FIELDS)
    return next((thinking for thinking in fields if isinstance(thinking, str) and thinking), None)


def _usage(counted: Any, price: Price) -> Usage:
    """Tokens as the server counts them; of a server that does not count, and costs nothing, zero."""
    counts = counted if isinstance(counted, dict) else {}
    read, written = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if not (_is_count(read) and _is_count(written)):
        if is_free(price):
            return Usage(0, 0)
        raise UnknownCostError("no usage")
    details = counts.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    cached = min(cached, read) if _is_count(cached) else 0
    return Usage(read, written, price.microusd(read, written, cache_read_tokens=cached), cache_read_tokens=cached)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS
