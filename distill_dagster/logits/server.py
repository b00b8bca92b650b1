"""Captures the distributions of a model that a vLLM server serves, at completions that are stored already."""

import asyncio
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import aiohttp

from distill_dagster.errors import DistillError, LogitsError, UnavailableError
from distill_dagster.jobs import CaptureJob, LogprobServer
from distill_dagster.logits.capture_queue import Item, Reader, read_queue
from distill_dagster.logits.capture_shards import CaptureShards, captured_keys
from distill_dagster.logits.prompt_logprobs import Captured, check_tokens, read_answer, request_body
from distill_dagster.logits.sparse import Sequence
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.teachers.asking.http import retry_after, said
from distill_dagster.teachers.local.chat_model import ChatFormat, end_of_turn_id, load_chat_format
from distill_dagster.teachers.openai.requests import KEY_VARIABLE

ATTEMPTS = 8
FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 30.0
TIMEOUT = aiohttp.ClientTimeout(total=600.0, connect=30.0)


def run_server_capture(job: CaptureJob, progress: ProgressWriter) -> dict[str, Any]:
    """Captures every sequence of a job that no shard in `job.out` holds yet; see `capture.run_capture`.

    A completion without token ids is its text with the end of turn behind it, in the named tokenizer. A server gives no
    hidden states, so none are kept.

    Raises:
        TeacherError: the tokenizer cannot be loaded.
        LogitsError: what is wanted is more than a server gives, or it refuses, or its tokens are others.
        UnavailableError: it does not answer.
    """
    server = job.server
    assert server is not None
    _check_possible(job)
    chat = load_chat_format(job.model)
    queue = read_queue(job.sequences, _reader(chat), captured_keys(job))
    shards = CaptureShards(job, len(chat.tokenizer), queue, progress)
    try:
        asyncio.run(_Conversation(server, job, chat, shards).hold(queue.items()))
    except DistillError:
        shards.save()
        raise
    return shards.finish()


def _check_possible(job: CaptureJob) -> None:
    identity = job.identity
    if identity.method != "topk":
        raise LogitsError("logits.method: a server gives the most likely tokens only; write `method: topk`")
    if identity.temperatures != (1.0,):
        raise LogitsError(
            f"logits.temperatures: a server's log-probabilities are those at temperature 1, not at "
            f"{', '.join(map(str, identity.temperatures))}; write `temperatures: [1.0]`, or use a local teacher"
        )


def _reader(chat: ChatFormat) -> Reader:
    stop_id = end_of_turn_id(chat.tokenizer)

    def completion(text: str) -> list[int]:
        return [*chat.tokenizer.encode(text, add_special_tokens=False), stop_id]

    # The server generates one token behind the last.
    return Reader(chat.encode, completion, None if chat.context is None else chat.context - 1)


class _Conversation:
    """Asks about one sequence after another, a number of them at a time."""

    def __init__(self, server: LogprobServer, job: CaptureJob, chat: ChatFormat, shards: CaptureShards) -> None:
        self._server = server
        self._url = f"{server.base_url.rstrip('/')}/completions"
        self._k = job.identity.k or 0
        self._source = job.model.source
        self._tokenizer = chat.tokenizer
        self._shards = shards

    async def hold(self, items: Iterator[Item]) -> None:
        """Captures all items, the first alone: with it the server's tokens are checked."""
        key = os.environ.get(KEY_VARIABLE, "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connector = aiohttp.TCPConnector(limit=self._server.concurrency)
        async with aiohttp.ClientSession(
            headers=headers, connector=connector, timeout=TIMEOUT, trust_env=True
        ) as session:
            first = next(items, None)
            if first is None:
                return
            captured = await self._ask(session, first)
            check_tokens(self._tokenizer, captured.decoded, self._source)
            self._take(first, captured)
            workers = [asyncio.ensure_future(self._work(session, items)) for _ in range(self._server.concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, session: aiohttp.ClientSession, items: Iterator[Item]) -> None:
        for item in items:
            self._take(item, await self._ask(session, item))

    def _take(self, item: Item, captured: Captured) -> None:
        sequence = Sequence(item.request_key, item.ids_hash, len(item.completion), captured.targets)
        self._shards.add(sequence, prompt_tokens=len(item.prompt))

    async def _ask(self, session: aiohttp.ClientSession, item: Item) -> Captured:
        body = request_body(self._server.model, [*item.prompt, *item.completion], self._k)
        content = await self._post(session, body)
        return read_answer(content, item.completion, self._k, len(self._tokenizer))

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> bytes:
        """The body of the server's answer, asked for again where that may help."""
        reason = ""
        for attempt in range(ATTEMPTS):
            wait_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                async with session.post(self._url, json=body) as response:
                    content = await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = _broken(error)
            else:
                if response.status == 200:
                    return content
                if response.status not in (408, 429) and response.status < 500:
                    raise LogitsError(f"{self._url}: {self._refusal(response.status, content)}")
                reason = f"HTTP {response.status}"
                pause = retry_after(response.headers, throttled=response.status == 429)
                wait_s = pause.seconds if pause else wait_s
            if attempt + 1 < ATTEMPTS:
                await asyncio.sleep(min(wait_s, LONGEST_BACKOFF_S))
        raise UnavailableError(
            f"{self._url}: no answer after {ATTEMPTS} attempts ({reason}); what was captured so far is kept, "
            "materialise teacher_logits again when the server is back"
        )

    def _refusal(self, status: int, content: bytes) -> str:
        told = f"HTTP {status}: {said(_message(content), KEY_VARIABLE)}"
        if status in (401, 403):
            return f"{told}; set {KEY_VARIABLE} to a key that the server accepts"
        if status in (404, 405):
            return f"{told}; correct teacher.model (GET /models lists them) or teacher.base_url"
        return (
            f"{told}; capturing needs vLLM, started with `--max-logprobs {self._k}` or more and a `--max-model-len` "
            "that the stored answers fit into"
        )


def _broken(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return "no connection"
    return "no answer in time" if isinstance(error, TimeoutError) else "connection lost"


def _message(content: bytes) -> str:
    """What an error body says: vLLM's, OpenAI's or any other's."""
    try:
        body = json.loads(content)
        error = body.get("error", body)
        return str(error["message"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return content.decode(errors="replace") or "no message"
