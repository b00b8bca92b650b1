"""What an OpenAI-compatible server says of when to go on."""

import pytest

from distill_dagster.teachers.asking.pacing import Pause
from distill_dagster.teachers.openai.errors import duration_s
from tests.fakes.openai_server import OpenAiServer, Reply
from tests.teachers.openai.asking import always, send, teacher_at

EMPTY = {
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "6m0s",
    "x-ratelimit-remaining-tokens": "5",
    "x-ratelimit-reset-tokens": "24h",
}
SPARE = EMPTY | {"x-ratelimit-remaining-requests": "1"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("7.66s", 7.66),
        ("1h2m3s", 3723.0),
        ("2", 2.0),
        (" 1s ", 1.0),
        ("soon", 0.0),
        ("1s soon", 0.0),
        ("-1s", 0.0),
        ("nan", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_durations_are_read(text: str | None, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("reply", "seconds", "throttled"),
    [
        (Reply(headers=EMPTY), 360.0, False),
        (Reply(raw="{}", headers=EMPTY), 360.0, False),
        (Reply(status=429, headers=EMPTY), 360.0, True),
        (Reply(status=429, headers=EMPTY | {"retry-after": "2"}), 2.0, True),
        (Reply(status=429), 0.0, True),
        (Reply(status=503, headers={"retry-after": "2"}), 2.0, False),
    ],
)
def test_the_pace_hears_when_to_go_on(server: OpenAiServer, reply: Reply, seconds: float, throttled: bool) -> None:
    always(server, reply)

    outcome = send(teacher_at(server.url))

    assert outcome.pause == Pause(seconds, throttled)


@pytest.mark.parametrize("reply", [Reply(headers=SPARE), Reply(status=500), Reply(fault="html")])
def test_nothing_is_waited_for_unasked(server: OpenAiServer, reply: Reply) -> None:
    always(server, reply)

    assert send(teacher_at(server.url)).pause is None
