"""A strict stand-in for a vLLM server's completions endpoint on 127.0.0.1, with a real model behind it.

It gives the log-probabilities of its prompt as vLLM does: one entry for each of its token ids, the first null, each an
object by id of the likeliest tokens and of the token that is there.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from distill_dagster.teachers.local.chat_model import ChatModel
from tests.fakes.openai_server import _with_transport, error

KEY = "sk-test-planted-logprob-key"
MODEL = "tiny-served"
FIELDS: dict[str, type] = {
    "model": str,
    "prompt": list,
    "max_tokens": int,
    "temperature": int,
    "prompt_logprobs": int,
}

Fault = Callable[[], Response]


def refusing(status: int, message: str = "something is wrong", **headers: str) -> Fault:
    """An error body as vLLM shapes it."""

    def answer() -> Response:
        response = error(status, "SomeError", message)
        response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        return response

    return answer


@dataclass
class LogprobServer:
    """The running server.

    Attributes:
        url: what to write as `base_url`.
        chat: the model.
        key: the only key it accepts; None accepts whatever comes.
        max_logprobs: most that it gives.
        decode: text of a token id.
        change: what becomes of an answer before it is sent.
        faults: what happens to the next requests instead of an answer, first to last.
        prompts: of all requests that were answered.
        requests: how many came.
    """

    chat: ChatModel
    decode: Callable[[int], str]
    url: str = ""
    key: str | None = KEY
    max_logprobs: int = 20
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body
    faults: list[Fault] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    requests: int = 0

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        self.requests += 1
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return error(401, "Unauthorized", f"wrong key: {request.headers.get('authorization')}")
        if self.faults:
            return self.faults.pop(0)()
        body = json.loads(await request.body())
        if problem := self._problem(body):
            return error(400, "BadRequestError", problem)
        if body["model"] != MODEL:
            return error(404, "NotFoundError", f"The model `{body['model']}` does not exist.")
        self.prompts.append(body["prompt"])
        choice = {
            "index": 0,
            "text": "?",
            "logprobs": None,
            "finish_reason": "length",
            "prompt_logprobs": self._log_probs(body["prompt"], body["prompt_logprobs"]),
        }
        answer = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": MODEL, "choices": [choice]}
        return JSONResponse(self.change(answer))

    def _problem(self, body: dict[str, Any]) -> str | None:
        for name in body.keys() ^ FIELDS.keys():
            return f"{name}: {'extra inputs are not permitted' if name in body else 'field required'}"
        for name, kind in FIELDS.items():
            if type(body[name]) is not kind:
                return f"{name}: wrong type"
        if body["prompt_logprobs"] > self.max_logprobs:
            asked = body["prompt_logprobs"]
            return f"Requested prompt logprobs of {asked}, which is greater than max allowed: {self.max_logprobs}"
        length = len(body["prompt"]) + body["max_tokens"]
        if self.chat.context is not None and length > self.chat.context:
            return f"This model's maximum context length is {self.chat.context} tokens, {length} were requested."
        return None

    @torch.inference_mode()
    def _log_probs(self, prompt: list[int], count: int) -> list[Any]:
        model: Any = self.chat.model
        log_p = model(input_ids=torch.tensor([prompt])).logits[0].float().log_softmax(-1)
        return [None, *(self._position(log_p[place - 1], prompt[place], count) for place in range(1, len(prompt)))]

    def _position(self, log_p: torch.Tensor, actual: int, count: int) -> dict[str, Any]:
        best = log_p.topk(count)
        ranked = {actual: (float(log_p[actual]), int((log_p >= log_p[actual]).sum()))}
        ranked |= {
            int(token_id): (float(value), rank)
            for rank, (value, token_id) in enumerate(zip(best.values, best.indices, strict=True), start=1)
        }
        return {
            str(token_id): {"logprob": value, "rank": rank, "decoded_token": self.decode(token_id)}
            for token_id, (value, rank) in ranked.items()
        }


@contextmanager
def logprob_server(chat: ChatModel) -> Iterator[LogprobServer]:
    """A server on a free port of 127.0.0.1 for the duration of the block."""
    state = LogprobServer(chat, decode=lambda token_id: chat.tokenizer.decode([token_id]))
    app = _with_transport(Starlette(routes=[Route("/v1/completions", state.complete, methods=["POST"])]))
    listening = socket.create_server(("127.0.0.1", 0))
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
