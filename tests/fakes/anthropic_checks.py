"""What Anthropic's API refuses in the body of a request, said in the API's words."""

import re
from collections.abc import Iterator
from typing import Any

COUNT_FIELDS = frozenset(
    ("model", "messages", "cache_control", "output_config", "speed", "system", "thinking", "tool_choice", "tools")
)
MESSAGE_FIELDS = COUNT_FIELDS | {
    "max_tokens",
    "container",
    "diagnostics",
    "inference_geo",
    "metadata",
    "service_tier",
    "stop_sequences",
    "stream",
}
REFUSED_PARAMETERS = ("temperature", "top_p", "top_k")
EFFORTS = ("low", "medium", "high", "xhigh", "max")
MOST_MESSAGES = 100_000
MOST_CACHE_MARKS = 4
LEAST_THINKING_TOKENS = 1024
MOST_BATCH_REQUESTS = 100_000
CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
NO_PREFILL = "This model does not support assistant message prefill. The conversation must end with a user message."


def message_problem(body: Any) -> str | None:
    """Why POST /v1/messages answers 400, or None."""
    return next(_problems(body, MESSAGE_FIELDS, ("model", "max_tokens", "messages")), None)


def count_problem(body: Any) -> str | None:
    """Why POST /v1/messages/count_tokens answers 400, or None."""
    return next(_problems(body, COUNT_FIELDS, ("model", "messages")), None)


def batch_problem(body: Any) -> str | None:
    """Why POST /v1/messages/batches answers 400, or None; it does not look into `params`."""
    if not isinstance(body, dict):
        return "body: Input should be an object"
    for name in body:
        if name != "requests":
            return f"{name}: Extra inputs are not permitted"
    requests = body.get("requests")
    if not isinstance(requests, list):
        return "requests: Field required" if requests is None else "requests: Input should be a valid list"
    if not 1 <= len(requests) <= MOST_BATCH_REQUESTS:
        return f"requests: List should have between 1 and {MOST_BATCH_REQUESTS} items, not {len(requests)}"
    seen: set[str] = set()
    for number, request in enumerate(requests):
        if not isinstance(request, dict) or request.keys() != {"custom_id", "params"}:
            return f"requests.{number}: needs exactly custom_id and params"
        custom_id = request["custom_id"]
        if not isinstance(custom_id, str) or CUSTOM_ID.fullmatch(custom_id) is None:
            return f"requests.{number}.custom_id: String should match pattern '^{CUSTOM_ID.pattern}$'"
        if custom_id in seen:
            return f"requests.{number}.custom_id: Duplicate custom_id: {custom_id}"
        seen.add(custom_id)
        if not isinstance(request["params"], dict):
            return f"requests.{number}.params: Input should be an object"
    return None


def _problems(body: Any, fields: frozenset[str], required: tuple[str, ...]) -> Iterator[str]:
    """The problems in the order in which the API looks for them; only the first is true.

    Nothing runs on after a problem was taken, so each check may rely on the ones before it.
    """
    if not isinstance(body, dict):
        yield "body: Input should be an object"
        return
    for name in body.keys() - fields:
        yield f"{name}: not supported" if name in REFUSED_PARAMETERS else f"{name}: Extra inputs are not permitted"
    for name in required:
        if name not in body:
            yield f"{name}: Field required"
    if not isinstance(body["model"], str) or not body["model"]:
        yield "model: String should have at least 1 character"
    if "max_tokens" in required and not _is_count(body["max_tokens"], 1):
        yield "max_tokens: Input should be an integer greater than or equal to 1"
    if body.get("stream"):
        yield "stream: this stand-in does not stream"
    yield from _in_turns(body["messages"])
    if body.get("system") is not None:
        yield from _in_content("system", body["system"], ("text",))
    if body.get("thinking") is not None:
        yield from _in_thinking(body["thinking"], body.get("max_tokens"))
    if body.get("output_config") is not None:
        yield from _in_output_config(body["output_config"])
    if "stop_sequences" in body:
        stops = body["stop_sequences"]
        if not isinstance(stops, list) or not all(isinstance(stop, str) and stop.strip() for stop in stops):
            yield "stop_sequences: each stop sequence must contain non-whitespace"
    yield from _in_cache_marks(body)


def _in_turns(turns: Any) -> Iterator[str]:
    if not isinstance(turns, list):
        yield "messages: Input should be a valid list"
        return
    if not turns:
        yield "messages: at least one message is required"
    if len(turns) > MOST_MESSAGES:
        yield f"messages: at most {MOST_MESSAGES} messages are allowed"
    for number, turn in enumerate(turns):
        where = f"messages.{number}"
        if not isinstance(turn, dict):
            yield f"{where}: Input should be an object"
        for name in turn.keys() - {"role", "content"}:
            yield f"{where}.{name}: Extra inputs are not permitted"
        if turn.get("role") not in ("user", "assistant"):
            yield f"{where}.role: Input should be 'user' or 'assistant'"
        if "content" not in turn:
            yield f"{where}.content: Field required"
        kinds = ("text",) if turn["role"] == "user" else ("text", "thinking")
        yield from _in_content(f"{where}.content", turn["content"], kinds)
    if turns[-1]["role"] != "user":
        yield NO_PREFILL


def _in_content(where: str, content: Any, kinds: tuple[str, ...]) -> Iterator[str]:
    if isinstance(content, str):
        if not content.strip():
            yield f"{where}: text content must be non-empty and contain non-whitespace text"
        return
    if not isinstance(content, list):
        yield f"{where}: Input should be a valid string or a valid list"
        return
    if not content:
        yield f"{where}: at least one block is required"
    for number, block in enumerate(content):
        at = f"{where}.{number}"
        if not isinstance(block, dict) or block.get("type") not in kinds:
            yield f"{at}: this stand-in knows blocks of type {' and '.join(kinds)} here"
        known = {"type", "text", "cache_control"} if block["type"] == "text" else {"type", "thinking", "signature"}
        for name in block.keys() - known:
            yield f"{at}.{name}: Extra inputs are not permitted"
        text = block.get("text" if block["type"] == "text" else "signature")
        if not isinstance(text, str) or not text.strip():
            yield f"{at}: {block['type']} content blocks must contain non-whitespace text"


def _in_thinking(thinking: Any, max_tokens: int | None) -> Iterator[str]:
    kind = str(thinking.get("type")) if isinstance(thinking, dict) else "none"
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        yield "thinking.type: Input should be 'enabled', 'disabled', 'adaptive' or 'between_tools'"
    known = {"enabled": {"type", "budget_tokens", "display"}, "adaptive": {"type", "display"}}.get(kind, {"type"})
    for name in thinking.keys() - known:
        yield f"thinking.{kind}.{name}: Extra inputs are not permitted"
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        if not _is_count(budget, LEAST_THINKING_TOKENS):
            yield f"thinking.enabled.budget_tokens: must be an integer of at least {LEAST_THINKING_TOKENS}"
        if max_tokens is not None and budget >= max_tokens:
            yield "`max_tokens` must be greater than `thinking.budget_tokens`"


def _in_output_config(config: Any) -> Iterator[str]:
    if not isinstance(config, dict):
        yield "output_config: Input should be an object"
    for name in config.keys() - {"effort", "format"}:
        yield f"output_config.{name}: Extra inputs are not permitted"
    effort, wanted = config.get("effort"), config.get("format")
    if effort is not None and effort not in EFFORTS:
        yield f"output_config.effort: Input should be one of {', '.join(EFFORTS)}"
    if wanted is None:
        return
    if (
        not isinstance(wanted, dict)
        or wanted.get("type") != "json_schema"
        or not isinstance(wanted.get("schema"), dict)
    ):
        yield "output_config.format: Input should have type 'json_schema' and a schema"
    for name in wanted.keys() - {"type", "schema"}:
        yield f"output_config.format.{name}: Extra inputs are not permitted"


def _in_cache_marks(body: dict[str, Any]) -> Iterator[str]:
    marks = [body["cache_control"]] if body.get("cache_control") is not None else []
    for content in (body.get("system"), *(turn["content"] for turn in body["messages"])):
        if isinstance(content, list):
            marks += [block["cache_control"] for block in content if block.get("cache_control") is not None]
    for mark in marks:
        if not isinstance(mark, dict) or mark.get("type") != "ephemeral":
            yield "cache_control.type: Input should be 'ephemeral'"
        if mark.get("ttl", "5m") not in ("5m", "1h"):
            yield "cache_control.ttl: Input should be '5m' or '1h'"
        for name in mark.keys() - {"type", "ttl"}:
            yield f"cache_control.{name}: Extra inputs are not permitted"
    if len(marks) > MOST_CACHE_MARKS:
        yield f"A maximum of {MOST_CACHE_MARKS} blocks with cache_control may be provided. Found {len(marks)}."


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
