"""What is sent to an OpenAI-compatible server over real HTTP, how answers end, and what they cost."""

import json
from typing import Any

import pytest

from distill_dagster.errors import TeacherError
from tests.fakes.openai_server import MODEL, OpenAiServer, Reply
from tests.teachers.openai.asking import (
    FREE,
    PAID,
    SCHEMA,
    MemoryDesk,
    always,
    ask,
    only_answer,
    requests_for,
    teacher_at,
)


def test_answers_come_with_usage_and_cost(server: OpenAiServer) -> None:
    desk = MemoryDesk()
    left = ask(teacher_at(server.url), desk, count=20)

    assert len(left) == 0
    assert sorted(str(a.text) for a in desk.answers.values()) == sorted(f"Answer to question {n}" for n in range(20))
    for answer in desk.answers.values():
        assert answer.status == "answered"
        assert answer.stop_reason == "stop"
        assert answer.usage.cost_microusd == answer.usage.input_tokens * 1 + answer.usage.output_tokens * 4
        assert json.loads(answer.content)[0]["content"] == answer.text
        assert str(answer.response_id).startswith("chatcmpl-")
    assert server.in_flight_peak <= 4


def test_only_what_is_declared_is_sent(server: OpenAiServer) -> None:
    only_answer(teacher_at(server.url))

    assert server.bodies == [
        {
            "model": MODEL,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "question 0"}],
            "max_tokens": 50,
        }
    ]


def test_sampling_stops_and_schema_are_sent(server: OpenAiServer) -> None:
    only_answer(teacher_at(server.url, temperature=0.5, top_p=0.9, stop_sequences=["END"], schema=SCHEMA))

    body = server.bodies[0]
    assert (body["temperature"], body["top_p"], body["stop"]) == (0.5, 0.9, ["END"])
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }


def test_each_sample_has_its_own_seed(server: OpenAiServer) -> None:
    desk = MemoryDesk()
    ask(teacher_at(server.url, seed=40, samples=3, temperature=1.0), desk, samples=3)

    assert sorted(body["seed"] for body in server.bodies) == [40, 41, 42]
    assert len(desk.answers) == 3


@pytest.mark.parametrize(
    ("reply", "status", "stop_reason", "detail"),
    [
        (Reply(), "answered", "stop", None),
        (Reply(finish_reason="length"), "truncated", "length", None),
        (Reply(finish_reason="content_filter"), "refused", "content_filter", "content_filter"),
        (Reply(text=None, message={"refusal": "I cannot."}), "refused", "stop", "refusal"),
        (Reply(text=None, finish_reason="tool_calls"), "tool_use", "tool_calls", None),
        (Reply(text=None, finish_reason="function_call"), "tool_use", "function_call", None),
        (Reply(finish_reason=None), "truncated", None, None),
        (Reply(finish_reason="unheard_of"), "truncated", "unheard_of", None),
    ],
)
def test_every_ending_has_its_status(
    server: OpenAiServer, reply: Reply, status: str, stop_reason: str | None, detail: str | None
) -> None:
    always(server, reply)

    answer = only_answer(teacher_at(server.url))

    assert (answer.status, answer.stop_reason, answer.detail) == (status, stop_reason, detail)
    assert answer.text == reply.text


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_is_kept_apart_from_the_answer(server: OpenAiServer, name: str) -> None:
    always(server, Reply(text="Yes.", message={name: "Let me see."}))

    answer = only_answer(teacher_at(server.url))

    assert (answer.text, answer.thinking) == ("Yes.", "Let me see.")


def test_text_may_come_in_parts(server: OpenAiServer) -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Yes"}, {"type": "text", "text": "."}]
    always(server, Reply(message={"content": parts}))

    assert only_answer(teacher_at(server.url)).text == "Yes."


def test_cached_tokens_are_counted(server: OpenAiServer) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 400}}
    always(server, Reply(usage=usage))

    answer = only_answer(teacher_at(server.url, prices={**PAID, "cache_read": 0.5}))

    assert (answer.usage.input_tokens, answer.usage.cache_read_tokens) == (1000, 400)
    assert answer.usage.cost_microusd == 600 + 200 + 40


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "3", "completion_tokens": True}, {"prompt_tokens": -1}])
def test_an_unknown_cost_stops_at_once(server: OpenAiServer, usage: Any) -> None:
    always(server, Reply(usage=usage))
    desk = MemoryDesk()

    left = ask(teacher_at(server.url, concurrency=1), desk, count=50)

    assert "no `usage`" in str(left.stop)
    assert "prices: {input: 0, output: 0}" in str(left.stop)
    assert len(left.perhaps_billed) == 1
    assert desk.answers == {}


def test_a_free_server_need_not_count(server: OpenAiServer) -> None:
    always(server, Reply(usage=None))

    answer = only_answer(teacher_at(server.url, prices=FREE))

    assert (answer.status, answer.usage.input_tokens, answer.usage.cost_microusd) == ("answered", 0, 0)


def test_no_answer_costs_more_than_was_reserved(server: OpenAiServer) -> None:
    teacher = teacher_at(server.url)
    always(server, Reply(text="x" * 4 * 50))

    most = teacher.most_microusd(requests_for(teacher)).item()

    assert only_answer(teacher).usage.cost_microusd <= most


def test_a_missing_price_says_what_to_write() -> None:
    with pytest.raises(TeacherError, match=r"no price for openai model 'tiny-chat'.*both 0 for a server of your own"):
        teacher_at("http://localhost:8000/v1", prices=None).check()
