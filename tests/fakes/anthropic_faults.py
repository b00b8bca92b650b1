"""What the stand-in for Anthropic's API answers, what can go wrong with it, and a mixer of all of that."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

Body = dict[str, Any]
Fault = Literal["reset_before", "reset_after", "garbage", "html", "empty", "stall"]
Expected = Literal["answered", "refused", "truncated", "error"]
REFUSAL_CATEGORIES = ("cyber", "bio", "frontier_llm", "reasoning_extraction", "general_harms", None)
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_T = TypeVar("_T")


@dataclass
class Reply:
    """What the server does with one request.

    Attributes:
        status: 200, or an HTTP error, which is never billed.
        blocks: the content, in place of one text block with `text`.
        error_type: by default the one that belongs to the status.
        error_code: `error.details.error_code`.
        delay_s: time between the acceptance and the answer; errors are answered at once.
        fault: what happens in place of a 200 answer:
            reset_before: the connection is reset before the request is accepted; not billed.
            reset_after: billed, then the connection is reset without an answer.
            garbage: billed; the body calls itself JSON and is none.
            html: billed; the body is a proxy's HTML page, and says so.
            empty: billed; the body is empty.
            stall: billed; nothing comes until the client goes away or the server stops.
    """

    status: int = 200
    text: str = "An answer."
    stop_reason: str = "end_turn"
    stop_details: dict[str, Any] | None = None
    blocks: list[dict[str, Any]] | None = None
    error_type: str | None = None
    error_message: str = "something went wrong"
    error_code: str | None = None
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    fault: Fault | None = None
    stop_sequence: str | None = None


def error_type_of(reply: Reply) -> str:
    """The error's type as the API names it for the status."""
    return reply.error_type or ERROR_TYPES.get(
        reply.status, "api_error" if reply.status >= 500 else "invalid_request_error"
    )


def take(hook: _T | list[_T | None] | None) -> _T | None:
    """The fault for this request: a single value stays until it is cleared, a list gives one to each request."""
    if isinstance(hook, list):
        return hook.pop(0) if hook else None
    return hook


def text_of(content: str | list[dict[str, Any]]) -> str:
    """The text of a message or system prompt, given as a string or as blocks."""
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") for block in content)


def prompt_of(body: Body) -> str:
    """The text of the last message."""
    return text_of(body["messages"][-1]["content"])


def default_script(body: Body, seen: int) -> Reply:
    """Repeats the prompt; where the request asks for JSON of a schema, as one such value."""
    answer = f"Answer to {prompt_of(body)}"
    wanted = (body.get("output_config") or {}).get("format")
    return Reply(text=answer if wanted is None else json.dumps(example_of(wanted["schema"], answer)))


def example_of(schema: Any, text: str) -> Any:
    """A value of a simple JSON schema, its strings being `text`."""
    if not isinstance(schema, dict):
        return text
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return example_of(schema[union][0], text)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return {name: example_of(inner, text) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [example_of(schema.get("items", {}), text)]
    return {"integer": 1, "number": 1.5, "boolean": True, "null": None}.get(kind, text)


def spend_limit() -> Reply:
    """The organisation is past its tier's monthly limit: `EnforcedSpendLimitReachedError`, without retry-after."""
    return Reply(
        status=429,
        error_message="Your organization has reached its monthly API usage limit.",
        error_code="enforced_spend_limit_reached",
    )


def user_spend_limit(of: Literal["organization", "workspace"] = "organization") -> Reply:
    """A limit that the user set is reached: a 400 that only its message tells from other invalid requests."""
    which = "" if of == "organization" else "workspace "
    message = (
        f"You have reached your specified {which}API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."
    )
    return Reply(status=400, error_message=message)


def rate_limited(retry_after_ms: int = 1) -> Reply:
    """A rate limit that says when to come back."""
    return Reply(
        status=429,
        error_message="This request would exceed your organization's rate limit.",
        headers={"retry-after-ms": str(retry_after_ms)},
    )


def refusal(category: str | None = "bio") -> Reply:
    """A refusal: HTTP 200 without content, and a category or null."""
    details = {"type": "refusal", "category": category, "explanation": None}
    return Reply(stop_reason="refusal", stop_details=details, blocks=[])


def truncated(text: str = "An answer that") -> Reply:
    """An answer that reached max_tokens."""
    return Reply(text=text, stop_reason="max_tokens")


def thinking(text: str = "An answer.", thought: str = "Let me think.") -> Reply:
    """An answer whose first block is a thought."""
    thought_block = {"type": "thinking", "thinking": thought, "signature": "c2lnbmF0dXJl"}
    return Reply(blocks=[thought_block, {"type": "text", "text": text}])


PASSING: tuple[Callable[[], Reply], ...] = (
    rate_limited,
    lambda: Reply(status=500, error_message="Internal server error", headers={"retry-after-ms": "1"}),
    lambda: Reply(status=529, error_message="Overloaded", headers={"retry-after-ms": "1"}),
    lambda: Reply(fault="reset_before"),
    lambda: Reply(fault="reset_after"),
    lambda: Reply(fault="garbage"),
)
FINAL: tuple[Expected, ...] = ("refused", "truncated", "answered", "error", "error")


@dataclass(frozen=True)
class FaultMix:
    """Everything that can go wrong, each with probability `rate`, decided by hashes and so the same in every process.

    Faults that may pass (429, 500, 529, resets, garbage, slowness) are drawn per attempt; what a prompt gets once an
    attempt comes through (refusal, truncation, thinking first, 400, 413, or an answer) depends on the prompt only.
    """

    rate: float = 0.05
    seed: int = 0
    answer: Callable[[Body, int], Reply] = default_script

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1 / (len(PASSING) + 1):
            raise ValueError(f"rate must be between 0 and 1/{len(PASSING) + 1}, not {self.rate}")

    def __call__(self, body: Body, seen: int) -> Reply:
        """The reply to the attempt number `seen` (from 0) with this prompt."""
        draw = self._draw(prompt_of(body), f"attempt {seen}")
        if draw < self.rate * len(PASSING):
            return PASSING[int(draw / self.rate)]()
        final = self.final(body)
        if draw < self.rate * (len(PASSING) + 1):
            return replace(final, delay_s=0.05 + 0.15 * self._draw(prompt_of(body), f"delay {seen}"))
        return final

    def batch_script(self, body: Body, custom_id: str) -> Reply:
        """For `server.batch_script`: a batch tries again by itself, so only final outcomes show."""
        return self.final(body)

    def final(self, body: Body) -> Reply:
        """What this prompt gets when nothing that may pass is in the way."""
        prompt = prompt_of(body)
        kind = self._final_kind(prompt)
        if kind == 0:
            index = int(self._draw(prompt, "category") * len(REFUSAL_CATEGORIES))
            return refusal(REFUSAL_CATEGORIES[index])
        if kind == 1:
            return truncated(f"Answer to {prompt[: len(prompt) // 2]}")
        if kind == 2:
            return thinking(self.answer(body, 0).text)
        if kind == 3:
            return Reply(status=400, error_message="messages: this prompt is not acceptable")
        if kind == 4:
            return Reply(status=413, error_message="Request exceeds the maximum size")
        return self.answer(body, 0)

    def expected(self, body: Body) -> Expected:
        """How the request ends in a client that tries again as often as it takes."""
        kind = self._final_kind(prompt_of(body))
        return "answered" if kind is None else FINAL[kind]

    def _final_kind(self, prompt: str) -> int | None:
        draw = self._draw(prompt, "final")
        return int(draw / self.rate) if draw < self.rate * len(FINAL) else None

    def _draw(self, prompt: str, about: str) -> float:
        digest = hashlib.blake2b(f"{self.seed}\0{about}\0{prompt}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64
