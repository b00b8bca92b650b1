"""What goes over the connection: answers with the API's headers, and connections that break, stall or end early."""

import asyncio
import itertools
import json
import math
import os
import socket
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.fakes.anthropic_faults import Reply, error_type_of

API_VERSION = "2026-10-21"
KEY = "sk-test-planted-key"
# What the token limits would be beside a request limit; this server never reaches them.
INPUT_TOKENS_PER_REQUEST = 2_000
OUTPUT_TOKENS_PER_REQUEST = 400
GARBAGE = b'{"id": "msg_1", "type": "mess'
JSON_LINES = "application/x-jsonl"
PROXY_PAGE = b"<html><body>502 Bad Gateway</body></html>"
_request_numbers = itertools.count(1)


class Answer(Response):
    """A JSON answer with a request id."""

    media_type = "application/json"

    def __init__(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.request_id = _request_id()
        if status != 200:
            content = {**content, "request_id": self.request_id}
        body = content if isinstance(content, bytes) else json.dumps(content, separators=(",", ":")).encode()
        super().__init__(body, status, {"request-id": self.request_id, **(headers or {})})


def error_body(reply: Reply) -> dict[str, Any]:
    """The body that tells of an error."""
    error: dict[str, Any] = {"type": error_type_of(reply), "message": reply.error_message}
    if reply.error_code:
        error["details"] = {"error_code": reply.error_code}
    return {"type": "error", "error": error}


def error(reply: Reply) -> Answer:
    """The reply's error as an answer."""
    return Answer(error_body(reply), reply.status, reply.headers)


def refuse(status: int, message: str) -> Answer:
    """An error of the usual type for its status."""
    return error(Reply(status=status, error_message=message))


def header_problem(request: Request) -> Answer | None:
    """The API's answer to a wrong key, version or content type."""
    headers = request.headers
    if headers.get("authorization") != f"Bearer {KEY}":
        return refuse(401, "x-api-key is not accepted" if "x-api-key" in headers else "invalid bearer token")
    if headers.get("anthropic-version") != API_VERSION:
        return refuse(400, f"anthropic-version: {API_VERSION} required")
    has_body = request.method == "POST" and "id" not in request.path_params
    if has_body and headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return refuse(400, "content-type: application/json required")
    return None


@dataclass
class Stalls:
    """Connections on which nothing comes until the client goes away or the server stops."""

    transports: set[asyncio.Transport] = field(default_factory=set)
    stalled: threading.Event = field(default_factory=threading.Event)

    async def stall(self, transport: asyncio.Transport, receive: Receive) -> None:
        """Returns when the connection has ended."""
        self.transports.add(transport)
        self.stalled.set()
        try:
            await _gone(receive)
        finally:
            self.transports.discard(transport)

    def end(self) -> None:
        """Ends all of them; to be called in the server's thread."""
        for transport in list(self.transports):
            transport.abort()


class Reset(Response):
    """No answer: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reset(scope["transport"])
        await _gone(receive)


class Stalled(Response):
    """No answer, and the connection stays open."""

    def __init__(self, stalls: Stalls) -> None:
        super().__init__()
        self._stalls = stalls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._stalls.stall(scope["transport"], receive)


class Lines(Response):
    """JSON lines that end too early, or may.

    `then` says what follows the last line:
        close: the connection ends in good order. No length and no last chunk told the client what to expect, so that
            it notices nothing when more lines should have come.
        break: the connection ends in the midst of a chunked body, which every client notices.
        stall: nothing, on an open connection.
    """

    def __init__(self, lines: Iterable[bytes], then: Literal["close", "break", "stall"], stalls: Stalls) -> None:
        super().__init__()
        self._lines = lines
        self._then = then
        self._stalls = stalls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Past uvicorn to the transport: uvicorn cannot send a body that the end of the connection delimits.
        transport = scope["transport"]
        chunked = self._then == "break"
        framing = "transfer-encoding: chunked" if chunked else "connection: close"
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {JSON_LINES}\r\nrequest-id: {_request_id()}\r\n{framing}\r\n\r\n"
        transport.write(head.encode())
        for line in self._lines:
            transport.write(b"%x\r\n%b\r\n" % (len(line), line) if chunked else line)
        if self._then == "stall":
            await self._stalls.stall(transport, receive)
        else:
            transport.close()
            await _gone(receive)


def faulty(reply: Reply, stalls: Stalls) -> Response:
    """What the client gets in place of an answer; whether the request is accepted is up to the caller."""
    if reply.fault == "stall":
        return Stalled(stalls)
    if reply.fault in ("reset_before", "reset_after"):
        return Reset()
    if reply.fault == "html":
        return Response(PROXY_PAGE, media_type="text/html")
    return Answer(b"" if reply.fault == "empty" else GARBAGE)


def reset(transport: asyncio.Transport) -> None:
    """Sends RST: closing a socket that may not linger does."""
    # uvloop's sockets have no setsockopt; a duplicate descriptor sets the options of the same socket.
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _request_id() -> str:
    return f"req_{next(_request_numbers):09d}"


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass
class TokenBucket:
    """Requests a minute, refilled continuously; holds what `burst_s` seconds bring, and one request at least."""

    requests_per_minute: int
    burst_s: float

    def __post_init__(self) -> None:
        self.capacity = max(1.0, self.requests_per_minute / 60 * self.burst_s)
        self.level = self.capacity
        self._filled_at = time.monotonic()

    def take(self) -> int:
        """0 when the request may pass, else the milliseconds until one may."""
        self._refill()
        if self.level >= 1:
            self.level -= 1
            return 0
        return max(1, math.ceil((1 - self.level) * 60_000 / self.requests_per_minute))

    def headers(self) -> dict[str, str]:
        """The limit headers; `remaining` is what could be sent at once, `reset` when the bucket is full."""
        self._refill()
        now = datetime.now(UTC)
        full_in_s = (self.capacity - self.level) * 60 / self.requests_per_minute
        inputs = self.requests_per_minute * INPUT_TOKENS_PER_REQUEST
        outputs = self.requests_per_minute * OUTPUT_TOKENS_PER_REQUEST
        headers = _limit("requests", self.requests_per_minute, int(self.level), now + timedelta(seconds=full_in_s))
        for name, limit in (("tokens", inputs + outputs), ("input-tokens", inputs), ("output-tokens", outputs)):
            headers |= _limit(name, limit, limit, now)
        return headers

    def _refill(self) -> None:
        now = time.monotonic()
        self.level = min(self.capacity, self.level + (now - self._filled_at) * self.requests_per_minute / 60)
        self._filled_at = now


def timestamp(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC, as the API writes it."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _limit(name: str, limit: int, remaining: int, reset_at: datetime) -> dict[str, str]:
    prefix = f"anthropic-ratelimit-{name}"
    return {
        f"{prefix}-limit": str(limit),
        f"{prefix}-remaining": str(remaining),
        f"{prefix}-reset": str(timestamp(reset_at)),
    }
