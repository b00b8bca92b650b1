"""A strict stand-in for Anthropic's Messages API: real HTTP on 127.0.0.1, driven by the real SDK.

It answers as the documentation says, refuses what the API refuses, and logs every accepted (billable) request.
"""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

API_VERSION = "2026-10-21"
KEY = "sk-test-planted-key"
REFUSED_PARAMETERS = ("temperature", "top_p", "top_k")


@dataclass
class Reply:
    """What the server does with one request."""

    status: int = 200
    text: str = "An answer."
    stop_reason: str = "end_turn"
    stop_details: dict[str, Any] | None = None
    blocks: list[dict[str, Any]] | None = None
    error_type: str = "api_error"
    error_message: str = "something went wrong"
    error_code: str | None = None
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class AnthropicServer:
    """The running server.

    Attributes:
        script: decides the reply from the request body and how often this prompt was sent before.
        accepted: prompts (last user message) of all requests that were billed, in order.
        in_flight_peak: the most requests that were open at once.
    """

    url: str = ""
    script: Callable[[dict[str, Any], int], Reply] = lambda body, seen: Reply(text=f"Answer to {prompt_of(body)}")
    accepted: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    in_flight_peak: int = 0

    async def messages(self, request: Request) -> Response:
        problem = _header_problem(request)
        if problem:
            return problem
        body = json.loads(await request.body())
        problem = _body_problem(body)
        if problem:
            return problem
        prompt = prompt_of(body)
        reply = self.script(body, self.seen[prompt])
        self.seen[prompt] += 1
        if reply.status != 200:
            return _error(reply.status, reply.error_type, reply.error_message, reply.error_code, reply.headers)
        self.accepted.append(prompt)
        self.bodies.append(body)
        self.in_flight += 1
        self.in_flight_peak = max(self.in_flight_peak, self.in_flight)
        try:
            if reply.delay_s:
                import asyncio

                await asyncio.sleep(reply.delay_s)
        finally:
            self.in_flight -= 1
        return JSONResponse(_message(body, reply, len(self.accepted)))


def prompt_of(body: dict[str, Any]) -> str:
    """The last user message."""
    return str(body["messages"][-1]["content"])


@contextmanager
def anthropic_server() -> Iterator[AnthropicServer]:
    """A server on a free port of 127.0.0.1 for the duration of the block."""
    state = AnthropicServer()
    app = Starlette(routes=[Route("/v1/messages", state.messages, methods=["POST"])])
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    state.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield state
    finally:
        server.should_exit = True
        thread.join(10)


def _header_problem(request: Request) -> Response | None:
    if request.headers.get("anthropic-version") != API_VERSION:
        return _error(400, "invalid_request_error", f"anthropic-version: {API_VERSION} required")
    sent = request.headers.get("authorization", "").removeprefix("Bearer ") or request.headers.get("x-api-key")
    if sent != KEY:
        return _error(401, "authentication_error", "invalid bearer token")
    return None


def _body_problem(body: dict[str, Any]) -> Response | None:
    for name in REFUSED_PARAMETERS:
        if name in body:
            return _error(400, "invalid_request_error", f"{name}: not supported")
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            return _error(400, "invalid_request_error", f"{name}: Field required")
    if any(turn["role"] not in ("user", "assistant") for turn in body["messages"]):
        return _error(400, "invalid_request_error", "messages: role must be user or assistant")
    return None


def _message(body: dict[str, Any], reply: Reply, number: int) -> dict[str, Any]:
    content = reply.blocks if reply.blocks is not None else [{"type": "text", "text": reply.text}]
    written = sum(len(block.get("text", "")) for block in content)
    return {
        "id": f"msg_{number:06d}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": reply.stop_reason,
        "stop_sequence": None,
        "stop_details": reply.stop_details,
        "usage": {
            "input_tokens": max(1, len(json.dumps(body["messages"])) // 4),
            "output_tokens": max(1, written // 4),
            "service_tier": "standard",
        },
    }


def _error(
    status: int, kind: str, message: str, code: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    error: dict[str, Any] = {"type": kind, "message": message}
    if code:
        error["details"] = {"error_code": code}
    return JSONResponse({"type": "error", "error": error}, status_code=status, headers=headers)
