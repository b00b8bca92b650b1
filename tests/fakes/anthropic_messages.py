"""The stand-in's Messages endpoints: what a request counts, what it costs, and what it is answered."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from tests.fakes.anthropic_checks import count_problem, message_problem
from tests.fakes.anthropic_faults import Body, Reply
from tests.fakes.anthropic_wire import Answer, Reset, error, faulty, header_problem, refuse

if TYPE_CHECKING:
    from tests.fakes.anthropic_state import AnthropicServer

MOST_MESSAGE_BYTES = 32 * 2**20
LEAST_CACHED_TOKENS = 1024
BYTES_PER_TOKEN = 4
TURN_OVERHEAD_BYTES = 16


async def create_message(server: AnthropicServer, request: Request) -> Response:
    """POST /v1/messages."""
    if problem := header_problem(request) or server.rate_problem():
        return problem
    body = await read_json(request, MOST_MESSAGE_BYTES)
    if isinstance(body, Response):
        return body
    if (invalid := message_problem(body)) is not None:
        return refuse(400, invalid)
    reply = server.script_reply(body)
    if reply.status != 200:
        return error(reply)
    if reply.fault == "reset_before":
        return Reset()
    answer = server.accept(body, reply, via="messages")
    server.in_flight += 1
    server.in_flight_peak = max(server.in_flight_peak, server.in_flight)
    try:
        await _wait(server, reply.delay_s)
    finally:
        server.in_flight -= 1
    return Answer(answer, headers=reply.headers) if reply.fault is None else faulty(reply, server.stalls)


async def count_tokens(server: AnthropicServer, request: Request) -> Response:
    """POST /v1/messages/count_tokens: free, and the same number as `usage` will tell."""
    if problem := header_problem(request):
        return problem
    body = await read_json(request, MOST_MESSAGE_BYTES)
    if isinstance(body, Response):
        return body
    if (invalid := count_problem(body)) is not None:
        return refuse(400, invalid)
    server.counted += 1
    return Answer({"input_tokens": InputTokens.of(body).total})


async def read_json(request: Request, most_bytes: int) -> Any:
    """The parsed body, or the answer that refuses it."""
    if int(request.headers.get("content-length", 0)) > most_bytes:
        return refuse(413, "Request exceeds the maximum size")
    try:
        return json.loads(await request.body())
    except ValueError as problem:
        return refuse(400, f"The request body is not valid JSON: {problem}")


def message_of(body: Body, reply: Reply, number: int, cached: set[bytes], tier: str) -> dict[str, Any]:
    """The message that answers `body`; adds its marked prefixes to `cached`."""
    content = reply.blocks if reply.blocks is not None else [{"type": "text", "text": reply.text}]
    thought = sum(len(block.get("thinking", "")) for block in content) // BYTES_PER_TOKEN
    written = sum(len(block.get("text", "")) for block in content) // BYTES_PER_TOKEN
    return {
        "id": f"msg_{number:06d}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": reply.stop_reason,
        "stop_sequence": reply.stop_sequence,
        "stop_details": reply.stop_details,
        "usage": {
            **InputTokens.of(body).usage(cached),
            "output_tokens": min(body["max_tokens"], max(1, thought + written)),
            "output_tokens_details": {"thinking_tokens": min(thought, body["max_tokens"])},
            "service_tier": tier,
        },
    }


@dataclass(frozen=True)
class _Mark:
    prefix: bytes
    tokens: int
    ttl: str


@dataclass(frozen=True)
class InputTokens:
    """The tokens of a request's system prompt and messages, and of the prefixes that its cache marks end."""

    total: int
    marks: tuple[_Mark, ...]

    @classmethod
    def of(cls, body: Body) -> InputTokens:
        """Counts bytes; each message costs a little more than its text."""
        size = 0
        marks = []
        prefix = hashlib.sha256(body["model"].encode())
        blocks = list(_blocks(body))
        for number, (overhead, text, mark) in enumerate(blocks):
            encoded = text.encode()
            size += overhead + len(encoded)
            prefix.update(b"%d:%b" % (overhead, encoded))
            if mark is None and number == len(blocks) - 1:
                mark = body.get("cache_control")
            if mark is not None:
                marks.append(_Mark(prefix.digest(), size // BYTES_PER_TOKEN, mark.get("ttl", "5m")))
        return cls(total=max(1, size // BYTES_PER_TOKEN), marks=tuple(marks))

    def usage(self, cached: set[bytes]) -> dict[str, Any]:
        """The input side of `usage`: the longest known prefix is read, what the last mark adds to it is written."""
        marks = [mark for mark in self.marks if mark.tokens >= LEAST_CACHED_TOKENS]
        read = max((mark.tokens for mark in marks if mark.prefix in cached), default=0)
        created = max((mark.tokens for mark in marks), default=0) - read
        cached.update(mark.prefix for mark in marks)
        by_ttl = {"5m": 0, "1h": 0}
        if created:
            by_ttl[marks[-1].ttl] = created
        return {
            "input_tokens": self.total - read - created,
            "cache_creation_input_tokens": created,
            "cache_read_input_tokens": read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": by_ttl["5m"],
                "ephemeral_1h_input_tokens": by_ttl["1h"],
            },
        }


def _blocks(body: Body) -> Any:
    """Overhead in bytes, text and cache mark of each block, in the order in which the model reads them."""
    sources = [(0, body["system"])] if body.get("system") is not None else []
    sources += [(TURN_OVERHEAD_BYTES, turn["content"]) for turn in body["messages"]]
    for overhead, content in sources:
        if isinstance(content, str):
            yield overhead, content, None
            continue
        for block in content:
            yield overhead, block.get("text") or block.get("thinking") or "", block.get("cache_control")
            overhead = 0


async def _wait(server: AnthropicServer, seconds: float) -> None:
    """Sleeps, but not on when the server stops."""
    while seconds > 0 and not server.stopping:
        await asyncio.sleep(min(seconds, 1.0))
        seconds -= 1.0
