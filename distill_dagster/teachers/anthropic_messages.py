"""One conversation with the Messages API: bounded concurrency, the SDK's retries, answers durable before they count."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anthropic
import polars as pl
from anthropic.types import Message

from distill_dagster.errors import TeacherError
from distill_dagster.lineage.hashing import canonical_json
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.prices import Price
from distill_dagster.teachers.protocol import Deliver, Response, ResponseStatus, Unanswered, Usage

MAX_RETRIES = 4
TIMEOUT_S = 600.0
STATUS = {
    "end_turn": ResponseStatus.ANSWERED,
    "stop_sequence": ResponseStatus.ANSWERED,
    "max_tokens": ResponseStatus.TRUNCATED,
    "model_context_window_exceeded": ResponseStatus.TRUNCATED,
    "refusal": ResponseStatus.REFUSED,
    "tool_use": ResponseStatus.TOOL_USE,
    "pause_turn": ResponseStatus.TOOL_USE,
}
FINAL_ERRORS = (400, 413)
SPEND_LIMIT_MARK = "spend_limit"


class Conversation:
    """One call of `answer`: a feeder, workers that each hold one request, and one writer that commits in groups."""

    def __init__(self, spec: TeacherSpec, price: Price, batches: Iterator[pl.DataFrame], deliver: Deliver) -> None:
        self._spec = spec
        self._price = price
        self._batches = batches
        self._deliver = deliver
        self._waiting: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue(maxsize=spec.concurrency)
        self._answered: asyncio.Queue[tuple[Response, asyncio.Future[None]]] = asyncio.Queue()
        self._unanswered = Unanswered()
        self._reasons: Counter[str] = Counter()

    async def run(self) -> Unanswered:
        """Asks all batches; a request counts as in flight until its answer is durable."""
        async with anthropic.AsyncAnthropic(
            base_url=self._spec.base_url, max_retries=MAX_RETRIES, timeout=TIMEOUT_S
        ) as client:
            writer = asyncio.create_task(self._write())
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._feed())
                    for _ in range(self._spec.concurrency):
                        tasks.create_task(self._work(client))
            finally:
                writer.cancel()
        self._unanswered.reasons = dict(self._reasons)
        return self._unanswered

    async def _feed(self) -> None:
        """Takes a batch of claims when the last one is nearly used up."""
        while not self._unanswered.stop:
            batch = await asyncio.to_thread(next, self._batches, None)
            if batch is None:
                break
            for row in batch.select("request_key", "messages").iter_rows():
                await self._waiting.put(row)
        for _ in range(self._spec.concurrency):
            await self._waiting.put(None)

    async def _work(self, client: anthropic.AsyncAnthropic) -> None:
        while (request := await self._waiting.get()) is not None:
            key, messages = request
            if self._unanswered.stop:
                self._unanswered.unbilled.append(key)
                continue
            response = await self._ask(client, key, messages)
            if response is not None:
                durable = asyncio.get_running_loop().create_future()
                await self._answered.put((response, durable))
                await durable

    async def _ask(self, client: anthropic.AsyncAnthropic, key: str, messages: str) -> Response | None:
        try:
            message = await client.messages.create(**self._body(messages))
        except anthropic.APIStatusError as error:
            return self._refused_by_api(key, error)
        except anthropic.APIConnectionError as error:
            self._unanswered.perhaps_billed.append(key)
            self._reasons[type(error).__name__] += 1
            return None
        return self._response(key, message)

    def _refused_by_api(self, key: str, error: anthropic.APIStatusError) -> Response | None:
        stop = _stop_reason(error)
        if stop is None and error.status_code in FINAL_ERRORS:
            text = f"{error.status_code} {error.type}: {error.api_message}"
            return Response(key, ResponseStatus.ERROR, None, None, "[]", Usage(0, 0), detail=text)
        if stop is not None and self._unanswered.stop is None:
            self._unanswered.stop = TeacherError(stop)
        self._unanswered.unbilled.append(key)
        self._reasons[f"HTTP {error.status_code}"] += 1
        return None

    def _body(self, messages: str) -> dict[str, Any]:
        turns: list[dict[str, str]] = json.loads(messages)
        body: dict[str, Any] = {"model": self._spec.model, "max_tokens": self._spec.max_tokens}
        if turns[0]["role"] == "system":
            body["system"] = turns[0]["content"]
            turns = turns[1:]
        body["messages"] = turns
        if self._spec.stop_sequences:
            body["stop_sequences"] = self._spec.stop_sequences
        if self._spec.effort:
            body["output_config"] = {"effort": self._spec.effort}
        if self._spec.thinking_tokens:
            body["thinking"] = {"type": "enabled", "budget_tokens": self._spec.thinking_tokens}
        return body

    def _response(self, key: str, message: Message) -> Response:
        usage = message.usage
        input_tokens = (
            usage.input_tokens + (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
        )
        cost = self._price.microusd(input_tokens, usage.output_tokens)
        text = "".join(block.text for block in message.content if block.type == "text")
        details = message.stop_details
        return Response(
            request_key=key,
            status=STATUS.get(str(message.stop_reason), ResponseStatus.TRUNCATED),
            stop_reason=message.stop_reason,
            text=text or None,
            content=canonical_json([block.to_dict(mode="json") for block in message.content]),
            usage=Usage(input_tokens, usage.output_tokens, cost),
            detail=(details.category or "uncategorised") if message.stop_reason == "refusal" and details else None,
            response_id=message.id,
        )

    async def _write(self) -> None:
        """Commits whatever has been answered, all of it in one transaction, and only then frees the workers."""
        while True:
            group = [await self._answered.get()]
            while not self._answered.empty():
                group.append(self._answered.get_nowait())
            try:
                await asyncio.to_thread(self._deliver, [response for response, _ in group])
            except Exception as error:
                for _, durable in group:
                    durable.set_exception(error)
                continue
            for _, durable in group:
                durable.set_result(None)


def _stop_reason(error: anthropic.APIStatusError) -> str | None:
    """What to tell the user when asking on would be pointless; None when it would not."""
    said = f"{error.type}: {error.api_message}"
    if error.status_code == 401:
        return f"the API did not accept the key ({said}); set a valid ANTHROPIC_API_KEY and run again"
    if error.status_code == 403:
        return f"the key may not do this ({said}); use a key with access to the model and run again"
    if error.status_code == 404:
        return f"the API does not know the model or endpoint ({said}); correct teacher.model or teacher.base_url"
    if error.status_code == 402 or SPEND_LIMIT_MARK in (error.error_code or ""):
        return f"a spending limit is reached ({said}); raise it with the provider and run again"
    return None
