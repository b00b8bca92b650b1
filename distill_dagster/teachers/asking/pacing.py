"""How fast a hosted teacher is asked: an adaptive window of requests in flight, and limits a minute."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

FIRST_WINDOW = 16
# One burst of refusals is one sign of congestion, however many requests it hits.
CUT_INTERVAL_S = 1.0
CUT_FACTOR = 0.5
LONGEST_PAUSE_S = 60.0
SECONDS_A_MINUTE = 60.0


@dataclass(frozen=True)
class Pause:
    """The provider's word on when to go on.

    Attributes:
        seconds: how long to send nothing at all.
        throttled: whether a request was refused for its pace, so that fewer may be in flight from now on.
    """

    seconds: float
    throttled: bool


class Bucket:
    """A token bucket: `per_minute` units refill evenly, and a second's worth may go at once."""

    def __init__(self, per_minute: int, now: float) -> None:
        self._rate = per_minute / SECONDS_A_MINUTE
        self._capacity = max(1.0, self._rate)
        self._level = self._capacity
        self._at = now

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` may go; an amount beyond the capacity needs a full bucket and leaves a debt."""
        self._refill(now)
        lacking = min(amount, self._capacity) - self._level
        return max(0.0, lacking / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Takes an amount out; a negative one gives back what was not needed."""
        self._refill(now)
        self._level = min(self._capacity, self._level - amount)

    def _refill(self, now: float) -> None:
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now


class Pace:
    """Decides when the next request may go.

    The window of requests in flight grows by one with each success until the provider refuses one for its pace, is
    halved then, and from there on grows by one a round trip (additive increase, multiplicative decrease, as in
    Chiu and Jain 1989). A `retry-after`, or a rate-limit header with nothing remaining, stops all sending for its time.
    """

    def __init__(
        self,
        most: int,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._window = float(min(most, FIRST_WINDOW))
        self._calm_above = float(most)  # below it the window grows fast
        self._in_flight = 0
        self._clock = clock
        now = clock()
        self._requests = Bucket(requests_per_minute, now) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute, now) if tokens_per_minute else None
        self._paused_until = now
        self._cut_at = now - CUT_INTERVAL_S
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def window(self) -> int:
        """How many requests may be in flight now."""
        return max(1, int(self._window))

    async def enter(self, tokens: int) -> None:
        """Waits until a request of about so many tokens may be sent, and counts it as in flight."""
        while True:
            wait_s = self._wait_s(tokens)
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif self._in_flight < self.window:
                break
            else:
                turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(turn)
                await turn
        self._in_flight += 1
        now = self._clock()
        if self._requests:
            self._requests.take(1, now)
        if self._tokens:
            self._tokens.take(tokens, now)

    def leave(self) -> None:
        """A request is no longer in flight."""
        self._in_flight -= 1
        for _ in range(self.window - self._in_flight):
            if not self._waiting:
                return
            turn = self._waiting.popleft()
            if not turn.done():  # a cancelled task's turn passes by
                turn.set_result(None)

    def succeeded(self, expected_tokens: int, used_tokens: int) -> None:
        """An answer came; the window may grow."""
        grow = 1.0 if self._window < self._calm_above else 1.0 / self._window
        self._window = min(float(self._most), self._window + grow)
        if self._tokens:
            self._tokens.take(used_tokens - expected_tokens, self._clock())

    def pause(self, pause: Pause) -> None:
        """The provider asked to slow down."""
        now = self._clock()
        self._paused_until = max(self._paused_until, now + min(pause.seconds, LONGEST_PAUSE_S))
        if pause.throttled and now - self._cut_at >= CUT_INTERVAL_S:
            self._cut_at = now
            self._window = max(1.0, self._window * CUT_FACTOR)
            self._calm_above = self._window

    def _wait_s(self, tokens: int) -> float:
        now = self._clock()
        waits = [self._paused_until - now]
        if self._requests:
            waits.append(self._requests.wait_s(1, now))
        if self._tokens:
            waits.append(self._tokens.wait_s(tokens, now))
        return max(waits)
