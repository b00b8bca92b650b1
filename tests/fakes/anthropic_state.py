"""The stand-in for Anthropic's API as an object: what a test tells it to do, what it saw, and its routes."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO

from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from tests.fakes.anthropic_batches import (
    Cut,
    Ending,
    FakeBatch,
    Moment,
    batch_results,
    cancel_batch,
    create_batch,
    delete_batch,
    end,
    list_batches,
    retrieve_batch,
)
from tests.fakes.anthropic_faults import Body, Reply, default_script, prompt_of, rate_limited
from tests.fakes.anthropic_messages import count_tokens, create_message, message_of
from tests.fakes.anthropic_wire import Answer, Stalls, TokenBucket, error, refuse


@dataclass
class AnthropicServer:
    """The running server: what it shall do, and what it saw. A test may read and set all fields at any time.

    A fault on batches is either a value, which stays until the test sets None, or a list, of which each request takes
    the first entry (None: no fault): `server.drop_create = ["after"]` breaks one creation only.

    Attributes:
        script: decides the reply from the request body and how often this prompt was answered before, errors included.
        requests_per_minute: a limit with its headers on every answer; it holds for POST /v1/messages.
        burst_s: how many seconds' worth of requests may come at once.
        log: a file that gets a JSON line for each accepted request, before its answer is sent.
        batch_ends_after_s: from creation to end; 0 means at the first retrieve or list after the creation.
        hold_batches: batches stay in progress (or canceling) until `end_batches` or until this is False.
        batch_script: decides about one request of a batch from its params and custom_id; by default as `script` does.
        cancel_completes: how many requests of a canceled batch, from the first one, are still answered.
        drop_create: creating a batch resets the connection, before or after the batch is made.
        stall_create: creating a batch never answers.
        create_reply, retrieve_reply, list_reply, results_reply: an error, or a `Reply.fault`, in place of the answer;
            a creation whose reply has another fault than reset_before makes its batch.
        cut_results: results end after `cut_results_after` lines: cleanly between two lines ("line"), cleanly in the
            middle of the next one ("mid"), or in the middle of it with a broken connection ("break").
        stall_results_after: results stop after that many lines, on an open connection.
        garbage_results: results are an HTML page.

        accepted: prompts (last user message) of all requests that were billed, in order; `bodies` are theirs.
        accepted_ids: custom_ids of the billed requests of batches.
        seen: how often each prompt came to the script.
        in_flight_peak: the most accepted messages that waited for their answer at once.
        rate_limited: how many requests the limit refused.
        counted: how many requests count_tokens answered.
        batches: all of them in order of creation, deleted ones too.
        stalled: set as soon as a request stalls.
    """

    url: str = ""
    script: Callable[[Body, int], Reply] = default_script
    requests_per_minute: int | None = None
    burst_s: float = 1.0
    log: Path | None = None
    seed: int = 0

    batch_ends_after_s: float = 0.0
    hold_batches: bool = False
    batch_script: Callable[[Body, str], Reply | Ending] | None = None
    cancel_completes: int = 0
    drop_create: Moment | list[Moment | None] | None = None
    stall_create: Moment | list[Moment | None] | None = None
    create_reply: Reply | list[Reply | None] | None = None
    retrieve_reply: Reply | list[Reply | None] | None = None
    list_reply: Reply | list[Reply | None] | None = None
    results_reply: Reply | list[Reply | None] | None = None
    cut_results: Cut | list[Cut | None] | None = None
    cut_results_after: int = 0
    stall_results_after: int | list[int | None] | None = None
    garbage_results: bool | list[bool | None] = False

    accepted: list[str] = field(default_factory=list)
    accepted_ids: list[str] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list, repr=False)
    seen: Counter[str] = field(default_factory=Counter, repr=False)
    in_flight: int = 0
    in_flight_peak: int = 0
    rate_limited: int = 0
    counted: int = 0
    batches: list[FakeBatch] = field(default_factory=list, repr=False)

    stalls: Stalls = field(default_factory=Stalls, repr=False)
    stopping: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        self._cached: set[bytes] = set()
        self._bucket: TokenBucket | None = None
        self._log_file: TextIO | None = None
        one = "/v1/messages/batches/{id}"
        self._router = Router(
            [
                self._route("POST", "/v1/messages", create_message),
                self._route("POST", "/v1/messages/count_tokens", count_tokens),
                self._route("POST", "/v1/messages/batches", create_batch),
                self._route("GET", "/v1/messages/batches", list_batches),
                self._route("GET", one, retrieve_batch),
                self._route("DELETE", one, delete_batch),
                self._route("GET", f"{one}/results", batch_results),
                self._route("POST", f"{one}/cancel", cancel_batch),
            ],
            default=_not_found,
            redirect_slashes=False,
        )

    @property
    def stalled(self) -> threading.Event:
        """Set as soon as a request stalls."""
        return self.stalls.stalled

    def end_batches(self) -> None:
        """Ends every batch that has not ended, held or not."""
        with self.lock:
            for batch in self.batches:
                if batch.ended_at is None:
                    end(self, batch)

    def script_reply(self, body: Body) -> Reply:
        """What the script says to the request."""
        prompt = prompt_of(body)
        reply = self.script(body, self.seen[prompt])
        self.seen[prompt] += 1
        return reply

    def accept(self, body: Body, reply: Reply, via: Literal["messages", "batch"], custom_id: str | None = None) -> Body:
        """Bills the request, logs it, and returns the message that answers it."""
        prompt = prompt_of(body)
        with self.lock:
            self.accepted.append(prompt)
            self.bodies.append(body)
            if custom_id is not None:
                self.accepted_ids.append(custom_id)
            if self.log is not None:
                self._write_log({"prompt": prompt, "via": via, "custom_id": custom_id})
            tier = "standard" if via == "messages" else "batch"
            return message_of(body, reply, len(self.accepted), self._cached, tier)

    def rate_problem(self) -> Answer | None:
        """The 429 for a request beyond the limit."""
        bucket = self._limit()
        if bucket is None or (wait_ms := bucket.take()) == 0:
            return None
        self.rate_limited += 1
        return error(rate_limited(wait_ms))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # `send` is a method of uvicorn's request cycle, which holds the transport that the faults need.
        scope["transport"] = send.__self__.transport  # type: ignore[attr-defined]
        await self._router(scope, receive, send if self.requests_per_minute is None else self._limited(send))

    def _limited(self, send: Send) -> Send:
        async def with_headers(message: Message) -> None:
            bucket = self._limit()
            if message["type"] == "http.response.start" and bucket is not None:
                limits = [(name.encode(), value.encode()) for name, value in bucket.headers().items()]
                message["headers"] = [*message["headers"], *limits]
            await send(message)

        return with_headers

    def _limit(self) -> TokenBucket | None:
        rate = self.requests_per_minute
        if rate is None:
            self._bucket = None
        elif self._bucket is None or (self._bucket.requests_per_minute, self._bucket.burst_s) != (rate, self.burst_s):
            self._bucket = TokenBucket(rate, self.burst_s)
        return self._bucket

    def _route(self, method: str, path: str, endpoint: Callable[..., Any]) -> Route:
        return Route(path, partial(endpoint, self), methods=[method])

    def _write_log(self, line: dict[str, Any]) -> None:
        if self._log_file is None or self._log_file.name != str(self.log):
            assert self.log is not None
            self._log_file = open(self.log, "a", encoding="utf-8")  # noqa: SIM115
        self._log_file.write(json.dumps(line) + "\n")
        self._log_file.flush()


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    await refuse(404, "Not found")(scope, receive, send)
