"""The pace: a window that adapts to what the provider takes, limits a minute, and pauses that hold for everyone."""

import asyncio
from collections.abc import Callable

import pytest

from distill_dagster.project import Distillation
from distill_dagster.teachers.anthropic.errors import exhausted
from distill_dagster.teachers.asking.pacing import Bucket, Pace, Pause
from tests.fakes.anthropic_server import AnthropicServer, Reply, rate_limited
from tests.teachers.hosted import answer, rows, spec

Declare = Callable[..., Distillation]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_window_grows_by_one_each_success_until_the_first_refusal() -> None:
    pace = Pace(64, clock=Clock())

    for _ in range(20):
        pace.succeeded(0, 0)

    assert pace.window == 36


def test_a_refusal_halves_the_window_once_a_second_and_then_it_grows_slowly() -> None:
    clock = Clock()
    pace = Pace(64, clock=clock)
    for _ in range(48):
        pace.succeeded(0, 0)

    for _ in range(10):  # a burst of refusals is one sign
        pace.pause(Pause(0.0, throttled=True))
    assert pace.window == 32
    for _ in range(33):  # one round trip
        pace.succeeded(0, 0)
    assert pace.window == 33

    clock.now += 1
    pace.pause(Pause(0.0, throttled=True))
    assert pace.window == 16


def test_the_window_never_closes() -> None:
    clock = Clock()
    pace = Pace(4, clock=clock)
    for _ in range(10):
        clock.now += 1
        pace.pause(Pause(0.0, throttled=True))

    assert pace.window == 1


def test_a_bucket_refills_evenly_and_lets_a_second_go_at_once() -> None:
    bucket = Bucket(600, now=0.0)

    bucket.take(10, now=0.0)
    assert bucket.wait_s(1, now=0.0) == pytest.approx(0.1)
    assert bucket.wait_s(1, now=0.1) == 0.0


def test_an_amount_beyond_the_bucket_passes_when_it_is_full_and_leaves_a_debt() -> None:
    bucket = Bucket(60, now=0.0)

    assert bucket.wait_s(50, now=0.0) == 0.0
    bucket.take(50, now=0.0)
    assert bucket.wait_s(1, now=0.0) == pytest.approx(50.0)


def test_nobody_passes_a_full_window_and_everybody_does_in_the_end() -> None:
    async def scenario() -> int:
        pace = Pace(3)
        inside = peak = 0

        async def one() -> None:
            nonlocal inside, peak
            await pace.enter(0)
            inside += 1
            peak = max(peak, inside)
            await asyncio.sleep(0)
            inside -= 1
            pace.leave()

        await asyncio.gather(*(one() for _ in range(50)))
        return peak

    assert asyncio.run(scenario()) == 3


def test_a_limit_with_nothing_remaining_pauses_until_its_reset() -> None:
    reset = b"2999-01-01T00:00:00Z"
    left = [(b"anthropic-ratelimit-requests-remaining", b"3"), (b"anthropic-ratelimit-requests-reset", reset)]
    spent = [(b"Anthropic-RateLimit-Tokens-Remaining", b"0"), (b"Anthropic-RateLimit-Tokens-Reset", reset)]

    assert exhausted(left) is None
    assert exhausted([*left, (b"anthropic-ratelimit-tokens-remaining", b"0")]) is None  # no reset is told
    pause = exhausted([*left, *spent])
    assert pause is not None
    assert pause.seconds > 1e6
    assert not pause.throttled


def test_a_provider_with_a_limit_answers_everything_and_is_hardly_refused(
    declare: Declare, claude: AnthropicServer
) -> None:
    claude.requests_per_minute = 6_000
    claude.burst_s = 0.1
    distillation = declare(spec().replace("concurrency: 4", "concurrency: 64"), rows__jsonl=rows(150))

    build = answer(distillation)

    assert build.failed == {}
    assert len(claude.accepted) == 150
    assert claude.rate_limited < 150


def test_a_429_with_retry_after_is_waited_out(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = lambda body, seen: rate_limited(20) if seen < 2 else Reply()
    distillation = declare(spec(), rows__jsonl=rows(5))

    assert answer(distillation).failed == {}
    assert len(claude.accepted) == 5


def test_an_own_limit_a_minute_spreads_the_requests(
    declare: Declare, claude: AnthropicServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits that are declared are those that the pace keeps."""
    seen: list[tuple[int | None, int | None]] = []
    original = Pace.__init__

    def noted(self: Pace, most: int, requests: int | None, tokens: int | None) -> None:
        seen.append((requests, tokens))
        original(self, most, requests, tokens)

    monkeypatch.setattr(Pace, "__init__", noted)
    answer(declare(spec("requests_per_minute: 6000", "tokens_per_minute: 900000"), rows__jsonl=rows(3)))

    assert seen == [(6000, 900000)]
