"""A strict stand-in for an OpenAI-compatible server on 127.0.0.1, driven by the real SDK.

It answers as vLLM documents, refuses what strict servers refuse, breaks where a test wants it to, and logs every
accepted (billable) request.
"""

import asyncio
import json
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

Body = dict[str, Any]
KEY = "sk-test-planted-openai-key"
MODEL = "tiny-chat"
FIELDS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "messages": (list,),
    "max_tokens": (int,),
    "stop": (str, list),
    "temperature": (int, float),
    "top_p": (int, float),
    "seed": (int,),
    "response_format": (dict,),
}
ROLES = ("system", "user", "assistant")
MOST_STOPS = 4


@dataclass
class Reply:
    """What the server does with one request.

    Attributes:
        status: 200, or an HTTP error, which is never billed.
        message: more fields of the message, or other ones.
        usage: instead of the server's own count; None leaves it out.
        error: the error body, instead of one made of the `error_` fields.
        raw: billed; the body is this text and nothing else.
        fault: reset_before: the connection is reset before the request is accepted; not billed.
            reset_after: billed, then the connection is reset.
            html: billed; the body is a proxy's page.
    """

    status: int = 200
    text: str | None = "An answer."
    finish_reason: str | None = "stop"
    message: dict[str, Any] = field(default_factory=dict)
    usage: Any = "counted"
    error_type: str = "server_error"
    error_message: str = "something went wrong"
    error_code: str | int | None = None
    error: Any = None
    raw: str | None = None
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    fault: Literal["reset_before", "reset_after", "html"] | None = None


def default_script(body: Body, seen: int) -> Reply:
    """Repeats the prompt."""
    return Reply(text=f"Answer to {prompt_of(body)}")


def prompt_of(body: Body) -> str:
    """The last user message."""
    return str(body["messages"][-1]["content"])


@dataclass
class OpenAiServer:
    """The running server.

    Attributes:
        url: what to write as `base_url`.
        key: the only key it accepts; None accepts whatever comes.
        script: decides the reply from the request body and how often this prompt was sent before.
        accepted: prompts of all requests that were billed, in order.
        bodies: their bodies.
        seen: how often each prompt was sent, billed or not.
        authorizations: the `authorization` header of every request.
        in_flight_peak: the most requests that were open at once.
    """

    url: str = ""
    key: str | None = KEY
    models: tuple[str, ...] = (MODEL,)
    script: Callable[[Body, int], Reply] = default_script
    accepted: list[str] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    authorizations: list[str | None] = field(default_factory=list)
    in_flight: int = 0
    in_flight_peak: int = 0

    async def complete(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        if refused := self._key_problem(request):
            return refused
        try:
            body = json.loads(await request.body())
        except ValueError:
            return error(400, "BadRequestError", "the body is not JSON")
        if problem := body_problem(body):
            return error(400, "BadRequestError", problem)
        if body["model"] not in self.models:
            return error(404, "NotFoundError", f"The model `{body['model']}` does not exist.")
        prompt = prompt_of(body)
        reply = self.script(body, self.seen[prompt])
        self.seen[prompt] += 1
        if reply.status != 200:
            return _scripted_error(reply)
        if reply.fault == "reset_before":
            return Reset()
        self.accepted.append(prompt)
        self.bodies.append(body)
        await self._work(reply.delay_s)
        return _answer(body, reply, len(self.accepted))

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models."""
        if refused := self._key_problem(request):
            return refused
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "tests"} for name in self.models]
        return JSONResponse({"object": "list", "data": data})

    def _key_problem(self, request: Request) -> Response | None:
        sent = request.headers.get("authorization")
        self.authorizations.append(sent)
        if self.key is None or sent == f"Bearer {self.key}":
            return None
        return error(401, "invalid_request_error", f"Incorrect API key provided: {sent}", "invalid_api_key")

    async def _work(self, seconds: float) -> None:
        self.in_flight += 1
        self.in_flight_peak = max(self.in_flight_peak, self.in_flight)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.in_flight -= 1


class Reset(Response):
    """No answer: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Closing a socket that may not linger sends RST; uvloop's sockets have no setsockopt, a duplicate has.
        transport = scope["transport"]
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass


@contextmanager
def openai_server() -> Iterator[OpenAiServer]:
    """A server on a free port of 127.0.0.1 for the duration of the block."""
    state = OpenAiServer()
    routes = [
        Route("/v1/chat/completions", state.complete, methods=["POST"]),
        Route("/v1/models", state.list_models, methods=["GET"]),
    ]
    app = _with_transport(Starlette(routes=routes))
    listening = socket.create_server(("127.0.0.1", 0))
    # Idle connections stay: a client that reuses one just as it closes would see a fault that no test asked for.
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_keep_alive=3600))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    state.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    try:
        yield state
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


def body_problem(body: Any) -> str | None:
    """Why a strict server answers 400, or None."""
    if not isinstance(body, dict):
        return "the body is no object"
    for name in ("model", "messages"):
        if name not in body:
            return f"{name}: field required"
    for name, value in body.items():
        if name not in FIELDS:
            return f"{name}: extra inputs are not permitted"
        if isinstance(value, bool) or not isinstance(value, FIELDS[name]):
            return f"{name}: wrong type {type(value).__name__}"
    if body.get("max_tokens", 1) < 1:
        return "max_tokens: at least 1"
    if isinstance(body.get("stop"), list) and not 1 <= len(body["stop"]) <= MOST_STOPS:
        return f"stop: 1 to {MOST_STOPS} texts"
    return _messages_problem(body["messages"]) or _format_problem(body.get("response_format"))


def error(status: int, kind: str, message: str, code: str | int | None = None) -> Response:
    """An error as vLLM and OpenAI shape it."""
    told = {"message": message, "type": kind, "param": None, "code": code if code is not None else status}
    return JSONResponse({"error": told}, status)


def _with_transport(app: ASGIApp) -> ASGIApp:
    """Gives requests the connection that a reset needs: `send` is a method of uvicorn's request cycle, which has it."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        scope["transport"] = send.__self__.transport  # type: ignore[attr-defined]
        await app(scope, receive, send)

    return call


def _messages_problem(messages: list[Any]) -> str | None:
    if not messages:
        return "messages: at least one"
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            return f"messages.{number}: needs exactly role and content"
        if message["role"] not in ROLES:
            return f"messages.{number}.role: must be one of {', '.join(ROLES)}"
        if message["role"] == "system" and number:
            return f"messages.{number}: System message must be at the beginning."
        if not isinstance(message["content"], str):
            return f"messages.{number}.content: must be text"
    return None


def _format_problem(wanted: dict[str, Any] | None) -> str | None:
    if wanted is None:
        return None
    if wanted.keys() != {"type", "json_schema"} or wanted["type"] != "json_schema":
        return "response_format: needs type json_schema and json_schema"
    named = wanted["json_schema"]
    if not isinstance(named, dict) or named.keys() != {"name", "schema", "strict"}:
        return "response_format.json_schema: needs name, schema and strict"
    return None if isinstance(named["schema"], dict) else "response_format.json_schema.schema: must be an object"


def _scripted_error(reply: Reply) -> Response:
    told = {"message": reply.error_message, "type": reply.error_type, "param": None, "code": reply.error_code}
    return JSONResponse({"error": told} if reply.error is None else reply.error, reply.status, reply.headers)


def _answer(body: Body, reply: Reply, number: int) -> Response:
    if reply.fault == "reset_after":
        return Reset()
    if reply.fault == "html":
        return Response("<html><body>502 Bad Gateway</body></html>", media_type="text/html", headers=reply.headers)
    if reply.raw is not None:
        return Response(reply.raw, media_type="application/json", headers=reply.headers)
    message = {"role": "assistant", "content": reply.text, "refusal": None, "tool_calls": [], **reply.message}
    completion: dict[str, Any] = {
        "id": f"chatcmpl-{number:06d}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}],
    }
    usage = _count(body, message) if reply.usage == "counted" else reply.usage
    if usage is not None:
        completion["usage"] = usage
    return JSONResponse(completion, headers=reply.headers)


def _count(body: Body, message: dict[str, Any]) -> dict[str, Any]:
    read = max(1, len(json.dumps(body["messages"])) // 4)
    written = max(1, len(str(message.get("content") or "")) // 4)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
