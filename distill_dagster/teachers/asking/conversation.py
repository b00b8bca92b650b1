"""A conversation with a hosted teacher: requests stream in, answers count once durable, failures are told apart."""

import asyncio
import gc
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from distill_dagster.errors import TeacherError
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.asking.pacing import Pace, Pause
from distill_dagster.teachers.protocol import REQUEST_COLUMNS, Desk, Response, Unanswered

ATTEMPTS = 12
FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 30.0
BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Answered:
    """A final answer: billed, or refused for good (an error row)."""

    response: Response
    pause: Pause | None = None


@dataclass(frozen=True)
class Failed:
    """No final answer.

    Attributes:
        reason: short, for counting, e.g. `HTTP 529`.
        perhaps_billed: whether the provider may have answered and billed.
        pause: when to go on, where the provider said so.
        stop: why asking on is pointless, if it is.
    """

    reason: str
    perhaps_billed: bool = False
    pause: Pause | None = None
    stop: str | None = None


class ChatClient(Protocol):
    """One provider's client. It never retries by itself: a lost answer has to be accounted for first."""

    async def send(self, request_key: str, messages: str, sample: int) -> Answered | Failed:
        """Asks once. Raises nothing that a provider or network can cause."""
        ...

    async def aclose(self) -> None:
        """Closes its connections."""
        ...


Connect = Callable[[], ChatClient]


def converse(connect: Connect, spec: TeacherSpec, batches: Iterator[pl.DataFrame], desk: Desk) -> Unanswered:
    """Asks every request of the batches at the pace that `spec` allows; see `Teacher.answer`.

    Args:
        connect: opens the provider's client, inside the event loop.
    """

    async def run() -> Unanswered:
        pace = Pace(spec.concurrency, spec.requests_per_minute, spec.tokens_per_minute)
        async with aclosing(connect()) as client:
            return await Conversation(client, pace, spec.concurrency, batches, desk).run()

    with _quiet_heap(), asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(run())


@contextmanager
def _quiet_heap() -> Iterator[None]:
    """Keeps the garbage collector from going through everything loaded so far again and again: a tenth of the pace."""
    if gc.get_freeze_count():  # somebody else's; thawing it would be theirs
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one (not on Windows); None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


Arrived = tuple[Response, asyncio.Future[None]]


class Conversation:
    """One call of `Teacher.answer`: a feeder, and workers that hold one request each until its answer is durable."""

    def __init__(
        self, client: ChatClient, pace: Pace, concurrency: int, batches: Iterator[pl.DataFrame], desk: Desk
    ) -> None:
        """Args:
        client: the provider.
        pace: when the next request may go.
        concurrency: most requests in flight; one counts until its answer is durable.
        batches: claimed requests (REQUEST columns), taken when there is room.
        desk: where answers go.
        """
        self._client = client
        self._pace = pace
        self._concurrency = concurrency
        self._batches = batches
        self._desk = desk
        self._waiting: asyncio.Queue[tuple[str, str, int] | None] = asyncio.Queue(maxsize=concurrency)
        self._arrived: list[Arrived] = []
        self._unanswered = Unanswered()
        self._failures_in_a_row = 0
        self._output_tokens = 0
        self._answers = 0

    async def run(self) -> Unanswered:
        """Asks all batches."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed())
                for _ in range(self._concurrency):
                    tasks.create_task(self._work())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # what failed first ended the others
        return self._unanswered

    async def _feed(self) -> None:
        """Takes a batch of claims when the last one is nearly used up."""
        while not self._unanswered.stop:
            batch = next(self._batches, None)
            if batch is None:
                break
            for row in batch.select(REQUEST_COLUMNS).iter_rows():
                await self._waiting.put(row)
        for _ in range(self._concurrency):
            await self._waiting.put(None)

    async def _work(self) -> None:
        while (request := await self._waiting.get()) is not None:
            await self._ask(*request)

    async def _ask(self, key: str, messages: str, sample: int) -> None:
        """Asks until there is a final answer, for a bounded number of times."""
        expected_tokens = len(messages) // BYTES_PER_TOKEN + self._usual_output_tokens()
        for attempt in range(ATTEMPTS):
            if self._unanswered.stop:
                self._unanswered.unbilled.append(key)
                return
            await self._pace.enter(expected_tokens)
            try:
                outcome = await self._client.send(key, messages, sample)
                if outcome.pause:
                    self._pace.pause(outcome.pause)
                if isinstance(outcome, Answered):
                    self._count(outcome.response, expected_tokens)
                    await self._make_durable(outcome.response)
                    return
            finally:
                self._pace.leave()
            if not self._may_ask_again(key, outcome, attempt):
                return
            self._failures_in_a_row += 1
            await asyncio.sleep(self._backoff_s(attempt, outcome.pause))

    def _may_ask_again(self, key: str, failure: Failed, attempt: int) -> bool:
        self._unanswered.reasons[failure.reason] += 1
        if failure.stop and self._unanswered.stop is None:
            self._unanswered.stop = TeacherError(failure.stop)
        if self._unanswered.stop or attempt + 1 == ATTEMPTS:
            left = self._unanswered.perhaps_billed if failure.perhaps_billed else self._unanswered.unbilled
            left.append(key)
            return False
        if failure.perhaps_billed and not self._desk.lost(key):
            self._unanswered.perhaps_billed.append(key)
            return False
        return True

    async def _make_durable(self, response: Response) -> None:
        """Returns when the answer is stored, together with those that came at about the same time."""
        loop = asyncio.get_running_loop()
        durable = loop.create_future()
        self._arrived.append((response, durable))
        if len(self._arrived) == 1:
            loop.call_soon(self._write)
        await durable

    def _write(self) -> None:
        """Stores whatever has arrived in one transaction, and only then lets its workers go on.

        It runs in the event loop. A thread would fight with the loop for the interpreter and take longer, and each hop
        from one to the other waits for everything that is due in between.
        """
        group, self._arrived = self._arrived, []
        try:
            self._desk.deliver([response for response, _ in group])
        except Exception as error:
            for durable in _awaited(group):
                durable.set_exception(error)
            return
        for durable in _awaited(group):
            durable.set_result(None)

    def _count(self, response: Response, expected_tokens: int) -> None:
        usage = response.usage
        self._failures_in_a_row = 0
        self._answers += 1
        self._output_tokens += usage.output_tokens
        self._pace.succeeded(expected_tokens, usage.input_tokens + usage.output_tokens)

    def _usual_output_tokens(self) -> int:
        return self._output_tokens // self._answers if self._answers else 0

    def _backoff_s(self, attempt: int, pause: Pause | None) -> float:
        """Doubles with each round in which nobody was answered, so that an outage is waited out and bad luck is not.

        With jitter, so that requests do not come back together. Where the provider said how long, the pace keeps to it.
        """
        if pause is not None and pause.seconds:
            return 0.0
        rounds = min(attempt, self._failures_in_a_row // self._pace.window)
        return min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0**rounds) * random.uniform(0.5, 1.0)


def _awaited(group: Sequence[Arrived]) -> list[asyncio.Future[None]]:
    """The futures whose tasks were not cancelled meanwhile."""
    return [durable for _, durable in group if not durable.done()]
