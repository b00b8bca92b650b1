"""The stand-in's Message Batches: their whole life, and every way in which making or reading one can go wrong."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tests.fakes.anthropic_checks import batch_problem, message_problem
from tests.fakes.anthropic_faults import Body, Reply, take
from tests.fakes.anthropic_messages import read_json
from tests.fakes.anthropic_wire import (
    JSON_LINES,
    PROXY_PAGE,
    Answer,
    Lines,
    Reset,
    Stalled,
    error,
    error_body,
    faulty,
    header_problem,
    refuse,
    timestamp,
)

if TYPE_CHECKING:
    from tests.fakes.anthropic_state import AnthropicServer

OUTCOMES = ("succeeded", "errored", "canceled", "expired")
Ending = Literal["expired", "canceled"]
Moment = Literal["before", "after"]
Cut = Literal["line", "mid", "break"]
MOST_BATCH_BYTES = 256 * 2**20
LIFETIME = timedelta(hours=24)
MOST_LISTED = 1000
RESULT_CHUNK_LINES = 200


@dataclass
class FakeBatch:
    """One batch; a test may change `created_at`."""

    requests: list[dict[str, Any]]
    id: str = field(default_factory=lambda: f"msgbatch_{uuid.uuid4().hex}")
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None
    cancel_initiated_at: datetime | None = None
    deleted: bool = False
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    lines: list[bytes] = field(default_factory=list, repr=False)
    made_s: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> Literal["in_progress", "canceling", "ended"]:
        """`processing_status`."""
        if self.ended_at is not None:
            return "ended"
        return "in_progress" if self.cancel_initiated_at is None else "canceling"

    def to_json(self, url: str) -> dict[str, Any]:
        """The batch as the API shows it."""
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": self.status,
            "request_counts": {"processing": 0 if self.ended_at else len(self.requests), **self.counts},
            "created_at": timestamp(self.created_at),
            "expires_at": timestamp(self.created_at + LIFETIME),
            "ended_at": timestamp(self.ended_at),
            "cancel_initiated_at": timestamp(self.cancel_initiated_at),
            "archived_at": None,
            "results_url": f"{url}/v1/messages/batches/{self.id}/results" if self.ended_at else None,
        }


async def create_batch(server: AnthropicServer, request: Request) -> Response:
    """POST /v1/messages/batches."""
    if problem := header_problem(request):
        return problem
    body = await read_json(request, MOST_BATCH_BYTES)
    if isinstance(body, Response):
        return body
    stall: Moment | None = take(server.stall_create)
    drop: Moment | None = take(server.drop_create)
    reply = take(server.create_reply) or Reply()
    if stall == "before":
        return Stalled(server.stalls)
    if drop == "before" or reply.fault == "reset_before":
        return Reset()
    if reply.status != 200:
        return error(reply)
    if (invalid := batch_problem(body)) is not None:
        return refuse(400, invalid)
    batch = FakeBatch(body["requests"])
    with server.lock:
        server.batches.append(batch)
    if stall == "after":
        return Stalled(server.stalls)
    if drop == "after":
        return Reset()
    return Answer(_shown(server, batch)) if reply.fault is None else faulty(reply, server.stalls)


async def retrieve_batch(server: AnthropicServer, request: Request) -> Response:
    """GET /v1/messages/batches/{id}."""
    batch = _settled(server, request, take(server.retrieve_reply))
    return batch if isinstance(batch, Response) else Answer(_shown(server, batch))


async def list_batches(server: AnthropicServer, request: Request) -> Response:
    """GET /v1/messages/batches: newest first."""
    if problem := header_problem(request) or _scripted(server, take(server.list_reply)):
        return problem
    query = request.query_params
    for name in query.keys() - {"limit", "after_id", "before_id"}:
        return refuse(400, f"{name}: Extra inputs are not permitted")
    limit = query.get("limit", "20")
    if not limit.isdigit() or not 1 <= int(limit) <= MOST_LISTED:
        return refuse(400, f"limit: Input should be an integer from 1 to {MOST_LISTED}")
    settle(server)
    listed = [batch for batch in reversed(server.batches) if not batch.deleted]
    places = {batch.id: place for place, batch in enumerate(listed)}
    after, before = query.get("after_id"), query.get("before_id")
    if after is not None and before is not None:
        return refuse(400, "after_id and before_id cannot be given together")
    if (cursor := after or before) is not None and cursor not in places:
        return refuse(400, f"{cursor}: no such batch")
    if before is not None:
        rest = listed[: places[before]]
        page = rest[-int(limit) :]
    else:
        rest = listed[0 if after is None else places[after] + 1 :]
        page = rest[: int(limit)]
    return Answer(
        {
            "data": [_shown(server, batch) for batch in page],
            "has_more": len(rest) > len(page),
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
    )


async def batch_results(server: AnthropicServer, request: Request) -> Response:
    """GET /v1/messages/batches/{id}/results; the documentation does not say what comes before the end, here a 404."""
    batch = _settled(server, request, take(server.results_reply))
    if isinstance(batch, Response):
        return batch
    if batch.ended_at is None:
        return refuse(404, f"Batch {batch.id} has no results yet; it is {batch.status}")
    if take(server.garbage_results):
        return Response(PROXY_PAGE + b"\n", media_type="text/html")
    stall_after = take(server.stall_results_after)
    cut: Cut | None = take(server.cut_results)
    if stall_after is not None:
        return Lines(batch.lines[:stall_after], "stall", server.stalls)
    if cut is not None:
        whole, half = batch.lines[: server.cut_results_after], batch.lines[server.cut_results_after :][:1]
        torn = [line[: len(line) // 2] for line in half if cut != "line"]
        return Lines([*whole, *torn], "break" if cut == "break" else "close", server.stalls)
    return StreamingResponse(_chunks(batch.lines), media_type=JSON_LINES)


async def cancel_batch(server: AnthropicServer, request: Request) -> Response:
    """POST /v1/messages/batches/{id}/cancel."""
    batch = _find(server, request)
    if isinstance(batch, Response):
        return batch
    if batch.ended_at is not None:
        return refuse(400, f"Batch {batch.id} cannot be canceled because it has already ended")
    batch.cancel_initiated_at = batch.cancel_initiated_at or datetime.now(UTC)
    return Answer(_shown(server, batch))


async def delete_batch(server: AnthropicServer, request: Request) -> Response:
    """DELETE /v1/messages/batches/{id}."""
    batch = _find(server, request)
    if isinstance(batch, Response):
        return batch
    if batch.ended_at is None:
        return refuse(400, f"Batch {batch.id} cannot be deleted while it is {batch.status}; cancel it first")
    batch.deleted = True
    return Answer({"id": batch.id, "type": "message_batch_deleted"})


def settle(server: AnthropicServer) -> None:
    """Ends the batches whose time has come."""
    if server.hold_batches:
        return
    with server.lock:
        for batch in server.batches:
            due = time.monotonic() >= batch.made_s + server.batch_ends_after_s
            if batch.ended_at is None and (due or batch.cancel_initiated_at is not None):
                end(server, batch)


def end(server: AnthropicServer, batch: FakeBatch) -> None:
    """Decides what became of each request, bills those that succeeded, and shuffles the results."""
    with server.lock:
        for number, request in enumerate(batch.requests):
            result = _result(server, batch, number, request["custom_id"], request["params"])
            batch.counts[result["type"]] += 1
            line = {"custom_id": request["custom_id"], "result": result}
            batch.lines.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        random.Random(f"{server.seed} {server.batches.index(batch)}").shuffle(batch.lines)
        batch.ended_at = datetime.now(UTC)


def _result(server: AnthropicServer, batch: FakeBatch, number: int, custom_id: str, params: Body) -> dict[str, Any]:
    if batch.cancel_initiated_at is not None and number >= server.cancel_completes:
        return {"type": "canceled"}
    if (invalid := message_problem(params)) is not None:
        return {"type": "errored", "error": error_body(Reply(status=400, error_message=invalid))}
    if server.batch_script is None:
        reply: Reply | Ending = server.script_reply(params)
    else:
        reply = server.batch_script(params, custom_id)
    if isinstance(reply, str):
        return {"type": reply}
    if reply.status != 200:
        return {"type": "errored", "error": error_body(reply)}
    return {"type": "succeeded", "message": server.accept(params, reply, via="batch", custom_id=custom_id)}


def _shown(server: AnthropicServer, batch: FakeBatch) -> dict[str, Any]:
    with server.lock:  # a test may be ending the batch in its own thread
        return batch.to_json(server.url)


def _scripted(server: AnthropicServer, reply: Reply | None) -> Response | None:
    """The error or fault that a test put in place of an answer."""
    if reply is None or (reply.status == 200 and reply.fault is None):
        return None
    return error(reply) if reply.status != 200 else faulty(reply, server.stalls)


def _settled(server: AnthropicServer, request: Request, reply: Reply | None) -> FakeBatch | Response:
    """The batch that the path names, ended if its time has come; or what to answer in its place."""
    found = _find(server, request)
    if problem := _scripted(server, reply):
        return problem
    settle(server)
    return found


def _find(server: AnthropicServer, request: Request) -> FakeBatch | Response:
    if problem := header_problem(request):
        return problem
    wanted = request.path_params["id"]
    for batch in server.batches:
        if batch.id == wanted and not batch.deleted:
            return batch
    return refuse(404, f"Batch {wanted} not found")


async def _chunks(lines: list[bytes]) -> AsyncIterator[bytes]:
    for start in range(0, len(lines), RESULT_CHUNK_LINES):
        yield b"".join(lines[start : start + RESULT_CHUNK_LINES])
