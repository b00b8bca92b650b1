"""Any OpenAI-compatible server as the teacher, over real HTTP: what is sent, how answers end, what failures mean."""

import asyncio
import importlib.metadata
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import polars as pl
import pytest

from distill_dagster.errors import TeacherError
from distill_dagster.lineage.hashing import canonical_json
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.asking import conversation
from distill_dagster.teachers.asking.conversation import Answered, Failed
from distill_dagster.teachers.asking.pacing import Pause
from distill_dagster.teachers.openai import chat as openai_chat
from distill_dagster.teachers.openai.chat import OpenAiClient
from distill_dagster.teachers.openai.errors import duration_s
from distill_dagster.teachers.openai.teacher import OpenAiTeacher, is_private
from distill_dagster.teachers.protocol import Response, Unanswered
from tests.fakes.openai_server import KEY, MODEL, OpenAiServer, Reply, openai_server

FREE = {"input": 0, "output": 0}
PAID = {"input": 1, "output": 4}
SOON = {"retry-after-ms": "1"}
EMPTY = {
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "6m0s",
    "x-ratelimit-remaining-tokens": "5",
    "x-ratelimit-reset-tokens": "24h",
}
SPARE = EMPTY | {"x-ratelimit-remaining-requests": "1"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@dataclass
class MemoryDesk:
    """Keeps answers in memory; `room` says for how many lost answers the budget has room."""

    answers: dict[str, Response] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    room: int = 1_000

    def deliver(self, answers: Sequence[Response]) -> None:
        self.answers |= {answer.request_key: answer for answer in answers}

    def lost(self, request_key: str) -> bool:
        self.losses.append(request_key)
        return len(self.losses) <= self.room


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAiServer]:
    """A local server with its key in the environment; failures that may pass are asked again at once."""
    monkeypatch.setattr(conversation, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with openai_server() as running:
        yield running


def teacher_at(url: str, *, schema: dict[str, Any] | None = None, **more: Any) -> OpenAiTeacher:
    declared = {"model": MODEL, "max_tokens": 50, "concurrency": 4, "prices": PAID} | more
    spec = TeacherSpec.model_validate({"provider": "openai", "base_url": url, **declared})
    return OpenAiTeacher(spec, Path("/nowhere"), schema)


def requests_for(teacher: OpenAiTeacher, count: int = 1, samples: int = 1) -> pl.DataFrame:
    asked = [
        {
            "messages": canonical_json(
                [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"question {number}"}]
            ),
            "sample": sample,
        }
        for number in range(count)
        for sample in range(samples)
    ]
    frame = pl.DataFrame(asked, schema={"messages": pl.String, "sample": pl.Int32})
    return frame.with_columns(teacher.identity.request_keys(frame))


def ask(teacher: OpenAiTeacher, desk: MemoryDesk, count: int = 1, samples: int = 1) -> Unanswered:
    return teacher.answer(iter([requests_for(teacher, count, samples)]), desk)


def only_answer(teacher: OpenAiTeacher) -> Response:
    desk = MemoryDesk()
    left = ask(teacher, desk)
    assert len(left) == 0, left
    (answer,) = desk.answers.values()
    return answer


def send(teacher: OpenAiTeacher) -> Answered | Failed:
    """What one request comes to."""

    async def once() -> Answered | Failed:
        async with aclosing(OpenAiClient(teacher.spec, teacher.requests, teacher.price, KEY)) as client:
            return await client.send("key", requests_for(teacher)["messages"].item(), 0)

    return asyncio.run(once())


def always(server: OpenAiServer, reply: Reply) -> None:
    server.script = lambda body, seen: reply


# --- identity


def test_the_identity_holds_what_changes_answers() -> None:
    teacher = teacher_at(
        "http://localhost:8000/v1", revision="abc", temperature=0.5, top_p=0.9, seed=7, stop_sequences=["END"]
    )

    assert teacher.identity.provider == "openai"
    assert teacher.identity.model == MODEL
    assert teacher.identity.parameters == {
        "max_tokens": 50,
        "stop_sequences": ["END"],
        "revision": "abc",
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
    }


@pytest.mark.parametrize(
    "other",
    [{"revision": "b"}, {"temperature": 0.1}, {"top_p": 0.5}, {"seed": 1}, {"max_tokens": 9}, {"schema": SCHEMA}],
)
def test_another_way_of_asking_is_another_identity(other: dict[str, Any]) -> None:
    assert teacher_at("http://a/v1").identity.digest != teacher_at("http://a/v1", **other).identity.digest


def test_two_replicas_are_one_teacher() -> None:
    one, two = teacher_at("http://a/v1"), teacher_at("http://b/v1", concurrency=9, prices=FREE)

    assert requests_for(one, 3).equals(requests_for(two, 3))


# --- what is sent, and what comes back


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


# --- usage and prices


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


# --- keys and addresses


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("192.168.0.9", True),
        ("100.100.1.1", True),
        ("vllm", True),
        ("gpu.local", True),
        ("host.docker.internal", True),
        ("8.8.8.8", False),
        ("api.openai.com", False),
        ("localhost.example.com", False),
    ],
)
def test_private_addresses_are_told_from_public_ones(host: str, private: bool) -> None:
    assert is_private(host) is private


def test_a_public_server_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = teacher_at("https://gateway.example.com/v1")

    with pytest.raises(TeacherError, match="set OPENAI_API_KEY"):
        teacher.check()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    teacher.check()


def test_a_server_on_this_machine_needs_none(server: OpenAiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.key = None
    teacher = teacher_at(server.url)

    teacher.check()

    assert only_answer(teacher).status == "answered"
    assert server.authorizations == ["Bearer none"]


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://localhost/v1", "http:///v1"])
def test_an_address_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(TeacherError, match=r"write e\.g\. http://localhost:8000/v1"):
        teacher_at(url).check()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)

    with pytest.raises(TeacherError, match=r"pip install 'distill-dagster\[openai\]'"):
        teacher_at("http://localhost:8000/v1").check()


def test_a_key_that_the_server_repeats_is_not_told_on(server: OpenAiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-but-secret")

    left = ask(teacher_at(server.url), MemoryDesk(), count=50)

    assert "set a valid OPENAI_API_KEY" in str(left.stop)
    assert "Bearer [key]" in str(left.stop)
    assert "sk-wrong-but-secret" not in repr(left)
    assert len(left.unbilled) == 50
    assert server.accepted == []


# --- errors that are final for one request


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


# --- errors that stop everything


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


# --- failures that may pass


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


def test_an_answer_that_takes_too_long_is_perhaps_billed(server: OpenAiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_chat, "TIMEOUT", openai.Timeout(0.1))
    always(server, Reply(delay_s=1.0))

    outcome = send(teacher_at(server.url))

    assert outcome == Failed("no answer in time", perhaps_billed=True)


def test_the_sdk_is_loaded_only_to_ask() -> None:
    """It is an optional extra, and takes a second to import."""
    code = "import sys, distill_dagster.teachers.openai.teacher; assert 'openai' not in sys.modules"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
