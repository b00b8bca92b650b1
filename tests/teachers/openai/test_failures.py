"""What failures of an OpenAI-compatible server mean: an error row, a stop, or another try."""

import json
import socket
from typing import Any

import openai
import polars as pl
import pytest

from distill_dagster.teachers.asking import conversation
from distill_dagster.teachers.asking.conversation import Failed
from distill_dagster.teachers.openai import chat as openai_chat
from tests.fakes.openai_server import OpenAiServer, Reply
from tests.teachers.openai.asking import MemoryDesk, always, ask, only_answer, requests_for, send, teacher_at

SOON = {"retry-after-ms": "1"}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_wrong_is_an_error_row(server: OpenAiServer, status: int) -> None:
    always(server, Reply(status=status, error_type="BadRequestError", error_message="too\nlong"))

    answer = only_answer(teacher_at(server.url))

    assert (answer.status, answer.detail) == ("error", f"{status} BadRequestError: too long")
    assert answer.usage.cost_microusd == 0
    assert sum(server.seen.values()) == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"error": "no such format"}, "no such format"),
        ({"object": "error", "message": "bad", "type": "BadRequestError", "code": 400}, "BadRequestError: bad"),
        ({"detail": [{"msg": "bad"}]}, "bad"),
        ({"error": None}, "no message"),
        ({"error": {"message": {"deep": 1}, "type": 7, "code": [1]}}, "deep"),
        (["a list"], "a list"),
        ("text", "text"),
    ],
)
def test_error_bodies_of_all_shapes_are_told(server: OpenAiServer, error: Any, told: str) -> None:
    always(server, Reply(status=400, error=error))

    answer = only_answer(teacher_at(server.url))

    assert answer.status == "error"
    assert told in str(answer.detail)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(status=401), "set a valid OPENAI_API_KEY"),
        (Reply(status=402, error_message="Insufficient Balance"), "no credit left"),
        (Reply(status=403), "access to the model"),
        (Reply(status=404), "correct teacher.model"),
        (Reply(status=405, error={"detail": "Method Not Allowed"}), "teacher.base_url"),
        (Reply(status=429, error_code="insufficient_quota"), "no credit left"),
        (Reply(status=400, error_code="billing_hard_limit_reached"), "no credit left"),
    ],
)
def test_what_asking_on_cannot_mend_stops_at_once(server: OpenAiServer, reply: Reply, told: str) -> None:
    server.script = lambda body, seen: reply if len(server.accepted) >= 3 else Reply()
    desk = MemoryDesk()

    left = ask(teacher_at(server.url), desk, count=60)

    assert told in str(left.stop)
    assert len(desk.answers) == 3
    assert len(left.unbilled) + len(desk.answers) == 60
    assert sum(server.seen.values()) < 20


def test_an_unknown_model_stops_at_once(server: OpenAiServer) -> None:
    left = ask(teacher_at(server.url, model="nobody"), MemoryDesk(), count=5)

    assert "The model `nobody` does not exist." in str(left.stop)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 529])
def test_failures_that_may_pass_are_asked_again(server: OpenAiServer, status: int) -> None:
    server.script = lambda body, seen: Reply(status=status, headers=SOON) if seen < 2 else Reply()
    desk = MemoryDesk()

    left = ask(teacher_at(server.url), desk, count=3)

    assert len(left) == 0
    assert left.reasons == {f"HTTP {status}": 6}
    assert len(desk.answers) == 3
    assert bool(desk.losses) == (status in (502, 504))


def test_a_failure_that_lasts_leaves_the_rest_answered(server: OpenAiServer) -> None:
    """And the next run asks just that one."""
    broken = {"question 3"}
    server.script = lambda body, seen: (
        Reply(status=503, headers=SOON) if body["messages"][-1]["content"] in broken else Reply()
    )
    teacher, desk = teacher_at(server.url), MemoryDesk()
    requests = requests_for(teacher, 5)

    left = teacher.answer(iter([requests]), desk)
    broken.clear()
    again = teacher.answer(iter([requests.filter(pl.col("request_key").is_in(left.unbilled))]), desk)

    assert (len(left), len(again), len(desk.answers), len(server.accepted)) == (1, 0, 5, 5)


GARBAGE: list[Reply] = [
    Reply(fault="html"),
    Reply(raw=""),
    Reply(raw='{"id": "chatcmpl-1", "choi'),
    Reply(raw="null"),
    Reply(raw="[]"),
    Reply(raw="3"),
    Reply(raw="{}"),
    Reply(raw='{"error": {"message": "upstream", "code": 502}}'),
    Reply(raw='{"choices": []}'),
    Reply(raw='{"choices": null}'),
    Reply(raw='{"choices": {"0": 1}}'),
    Reply(raw='{"choices": [null]}'),
    Reply(raw='{"choices": [{"message": "text"}]}'),
    Reply(raw='{"choices": [{"message": {"content": 3}}]}'),
    Reply(raw='{"choices": [{"message": {"content": {"text": "x"}}}]}'),
    Reply(raw='{"choices": [{"message": {"content": [{"text": "x"}]}}]}'),
    Reply(raw='{"choices": [{"message": {"content": [{"type": "text", "text": 3}]}}]}'),
    Reply(raw='{"choices": [{"message": {"content": "\\ud800"}}]}'),
    Reply(raw='{"choices": [{"message": {"content": "x", "score": NaN}}]}'),
    Reply(raw="[" * 100_000),
    Reply(finish_reason="abort"),
    Reply(finish_reason="error"),
    Reply(fault="reset_after"),
]


@pytest.mark.parametrize("reply", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_perhaps_billed_and_asked_again(server: OpenAiServer, reply: Reply) -> None:
    server.script = lambda body, seen: reply if seen == 0 else Reply()
    desk = MemoryDesk()

    left = ask(teacher_at(server.url), desk)

    assert len(left) == 0
    assert len(desk.losses) == 1
    assert [answer.text for answer in desk.answers.values()] == ["An answer."]


@pytest.mark.parametrize(
    "odd",
    [
        Reply(message={"reasoning": {"deep": 1}, "refusal": None, "tool_calls": "?"}),
        Reply(usage={"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": [1]}),
        Reply(usage={"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}),
        Reply(headers={"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "soon"}),
    ],
)
def test_oddities_beside_the_answer_do_no_harm(server: OpenAiServer, odd: Reply) -> None:
    always(server, odd)

    answer = only_answer(teacher_at(server.url))

    assert (answer.status, answer.text, answer.thinking) == ("answered", "An answer.", None)
    assert answer.usage.cache_read_tokens <= answer.usage.input_tokens


def test_an_odd_finish_reason_is_no_ending(server: OpenAiServer) -> None:
    message = {"role": "assistant", "content": "x"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    always(server, Reply(raw=json.dumps({"choices": [{"message": message, "finish_reason": {}}], "usage": usage})))

    answer = only_answer(teacher_at(server.url))

    assert (answer.status, answer.stop_reason, answer.response_id) == ("truncated", None, None)


def test_a_lost_answer_is_not_asked_for_again_without_room_in_the_budget(server: OpenAiServer) -> None:
    always(server, Reply(fault="reset_after"))
    desk = MemoryDesk(room=2)

    left = ask(teacher_at(server.url), desk)

    assert len(left.perhaps_billed) == 1
    assert left.reasons == {"connection lost": 3}
    assert len(server.accepted) == 3


def test_a_server_that_is_not_there_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "FIRST_BACKOFF_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    desk = MemoryDesk()

    left = ask(teacher_at(url), desk)

    assert left.reasons == {f"no connection to {url}": conversation.ATTEMPTS}
    assert (len(left.unbilled), desk.losses) == (1, [])


def test_an_answer_that_takes_too_long_is_perhaps_billed(server: OpenAiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_chat, "TIMEOUT", openai.Timeout(30.0, read=0.1))
    always(server, Reply(delay_s=1.0))

    outcome = send(teacher_at(server.url))

    assert outcome == Failed("no answer in time", perhaps_billed=True)
