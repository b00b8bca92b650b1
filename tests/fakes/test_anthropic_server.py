"""The stand-in for Anthropic's Messages API, asked by the real SDK over both of its transports."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from tests.fakes.anthropic_asking import HEADERS, TRANSPORTS, Transport, ask, body, client, post
from tests.fakes.anthropic_server import (
    KEY,
    REPOSITORY,
    AnthropicServer,
    Reply,
    anthropic_server,
    rate_limited,
    serve_process,
)

QUICK_S = 1.0
LONG = "A long instruction. " * 300


@pytest.fixture
def server() -> Iterator[AnthropicServer]:
    with anthropic_server() as running:
        yield running


@pytest.fixture(scope="module")
def shared() -> Iterator[AnthropicServer]:
    """For many tests that leave nothing behind."""
    with anthropic_server() as running:
        yield running


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_answer_has_text_usage_and_a_request_id(server: AnthropicServer, transport: Transport) -> None:
    message = ask(server.url, transport, body(system="Be brief."))

    assert message.content[0].text == "Answer to Hello?"
    assert message.stop_reason == "end_turn"
    assert message.usage.service_tier == "standard"
    assert message.usage.cache_read_input_tokens == message.usage.cache_creation_input_tokens == 0
    assert message._request_id.startswith("req_")
    assert server.accepted == ["warm up", "Hello?"]
    assert server.bodies[1]["system"] == "Be brief."


def test_system_and_content_may_be_blocks(server: AnthropicServer) -> None:
    blocks = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo?"}]

    message = client(server).messages.create(**body(blocks, system=[{"type": "text", "text": "Be brief."}]))

    assert message.content[0].to_dict()["text"] == "Answer to Hello?"
    assert server.accepted == ["Hello?"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"temperature": 0.5}, "temperature"),
        ({"top_p": 0.5}, "top_p"),
        ({"top_k": 5}, "top_k"),
        ({"seed": 1}, "seed: Extra inputs are not permitted"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "50"}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"stream": True}, "stream"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": " "}]}, "non-whitespace"),
        ({"messages": [{"role": "user", "content": []}]}, "at least one block"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "non-whitespace"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "blocks of type text"),
        ({"messages": [{"role": "user", "content": "x", "name": "me"}]}, "messages.0.name: Extra inputs"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "prefill"),
        ({"system": ""}, "system"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1000}}, "budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "`max_tokens` must be greater"),
        ({"thinking": {"type": "always"}}, "thinking.type"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
        ({"output_config": {"style": "short"}}, "output_config.style: Extra inputs"),
        ({"stop_sequences": ["\n"]}, "stop_sequences"),
        ({"cache_control": {"type": "forever"}}, "cache_control.type"),
        ({"cache_control": {"type": "ephemeral", "ttl": "2h"}}, "cache_control.ttl"),
        ({"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}] * 5}, "maximum of 4"),
    ],
)
def test_what_the_api_refuses_is_a_400_and_free(shared: AnthropicServer, more: dict[str, Any], said: str) -> None:
    answer = post(shared, body(**more))

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert said in answer.json()["error"]["message"]
    assert answer.json()["request_id"] == answer.headers["request-id"]
    assert shared.accepted == []


def test_what_the_api_accepts(server: AnthropicServer) -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]

    answer = post(
        server,
        body(
            max_tokens=2000,
            messages=talk,
            system=[{"type": "text", "text": "x", "cache_control": mark}] * 3,
            cache_control=mark,
            thinking={"type": "enabled", "budget_tokens": 1024},
            output_config={"effort": "xhigh"},
            stop_sequences=["END"],
        ),
    )

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer sk-other"}, 401),
        ({"authorization": "", "x-api-key": KEY}, 401),
        ({"anthropic-version": "2023-06-01"}, 400),
        ({"content-type": "text/plain"}, 400),
    ],
)
def test_headers_are_checked(shared: AnthropicServer, headers: dict[str, str], status: int) -> None:
    assert post(shared, body(), **headers).status_code == status
    assert shared.accepted == []


def test_no_json_an_unknown_path_and_too_many_bytes(server: AnthropicServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url, headers = f"{server.url}/v1/messages", {**HEADERS, "content-type": "application/json"}
    assert httpx2.post(url, content=b"{", headers=headers).status_code == 400
    assert post(server, [1]).status_code == 400
    assert post(server, body(), "/v1/complete").status_code == 404
    monkeypatch.setattr("tests.fakes.anthropic_messages.MOST_MESSAGE_BYTES", 10)
    with pytest.raises(anthropic.ContentTooLargeError):
        client(server).messages.create(**body())


def test_a_marked_prefix_is_written_once_and_then_read(server: AnthropicServer) -> None:
    system = [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    asking = client(server)

    first = asking.messages.create(**body("one", system=system)).usage
    second = asking.messages.create(**body("two", system=system)).usage
    short = asking.messages.create(**body(system=[{**system[0], "text": "short"}])).usage

    assert first.cache_creation_input_tokens == second.cache_read_input_tokens == len(LONG) // 4
    assert first.cache_creation is not None
    assert first.cache_creation.ephemeral_1h_input_tokens == len(LONG) // 4
    assert first.cache_read_input_tokens == second.cache_creation_input_tokens == 0
    assert first.input_tokens == second.input_tokens < 10
    assert (short.cache_creation_input_tokens, short.cache_read_input_tokens) == (0, 0)


def test_counting_tokens_is_free_and_agrees_with_usage(server: AnthropicServer) -> None:
    asked = body(LONG, system=[{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}])
    asking = client(server)

    counted = asking.messages.count_tokens(**{key: asked[key] for key in ("model", "messages", "system")})
    usage = asking.messages.create(**asked).usage

    assert counted.input_tokens == usage.input_tokens + (usage.cache_creation_input_tokens or 0)
    assert server.counted == len(server.accepted) == 1
    assert post(server, asked, "/v1/messages/count_tokens").json()["error"]["message"].startswith("max_tokens: Extra")


def test_json_of_a_schema_is_answered_by_default(server: AnthropicServer) -> None:
    properties = {"label": {"enum": ["yes", "no"]}, "score": {"type": "integer"}, "why": {"type": "string"}}
    schema = {"type": "object", "properties": {**properties, "tags": {"type": "array", "items": {"type": "string"}}}}

    message = client(server).messages.create(
        **body(output_config={"format": {"type": "json_schema", "schema": schema}})
    )

    text = "Answer to Hello?"
    assert json.loads(message.content[0].to_dict()["text"]) == {
        "label": "yes",
        "score": 1,
        "why": text,
        "tags": [text],
    }


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_beyond_the_limit_a_429_says_when_to_come_back(server: AnthropicServer, transport: Transport) -> None:
    server.requests_per_minute = 600
    server.burst_s = 0.2
    started = time.monotonic()

    for number in range(3):
        ask(server.url, transport, body(f"question {number}"), max_retries=20)

    assert len(server.accepted) == 6
    assert server.rate_limited > 0
    assert time.monotonic() - started >= (6 - 2) / 10


def test_rate_limit_headers(server: AnthropicServer) -> None:
    asking = client(server)
    assert "anthropic-ratelimit-requests-limit" not in asking.messages.with_raw_response.create(**body()).headers
    server.requests_per_minute = 60

    headers = asking.messages.with_raw_response.create(**body()).headers
    with pytest.raises(anthropic.RateLimitError) as refused:
        asking.messages.create(**body())

    for name in ("requests", "tokens", "input-tokens", "output-tokens"):
        assert int(headers[f"anthropic-ratelimit-{name}-limit"]) >= 60
        assert int(headers[f"anthropic-ratelimit-{name}-remaining"]) >= 0
        assert datetime.fromisoformat(headers[f"anthropic-ratelimit-{name}-reset"]).tzinfo is not None
    assert headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert 0 < int(refused.value.response.headers["retry-after-ms"]) <= 1000
    assert refused.value.type == "rate_limit_error"
    assert server.rate_limited == 1


def test_the_log_tells_what_was_billed_before_the_answer(server: AnthropicServer, tmp_path: Path) -> None:
    server.log = tmp_path / "log.jsonl"
    server.script = lambda sent, seen: rate_limited() if seen == 0 else Reply(fault="stall" if seen == 2 else None)

    client(server, max_retries=1).messages.create(**body())
    with pytest.raises(anthropic.APITimeoutError):
        client(server, timeout=QUICK_S).messages.create(**body())

    line = {"prompt": "Hello?", "via": "messages", "custom_id": None}
    assert [json.loads(text) for text in server.log.read_text().splitlines()] == [line, line]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_process_of_its_own(transport: Transport, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with serve_process(delay_ms=30, log=log) as url:
        started = time.monotonic()
        message = ask(url, transport, body())
        took_s = time.monotonic() - started

    assert message.content[0].text == "Answer to Hello?"
    assert took_s >= 0.06
    assert len(log.read_text().splitlines()) == 2
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url)


def test_the_process_ends_with_the_one_that_started_it() -> None:
    code = (
        "import time\n"
        "from tests.fakes.anthropic_server import serve_process\n"
        "with serve_process() as url:\n"
        "    print(url, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        url = starter.stdout.readline().strip()
        assert httpx2.get(url).status_code == 404
        os.kill(starter.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while True:
        try:
            httpx2.get(url)
        except httpx2.ConnectError:
            break
        assert time.monotonic() < deadline, "the server outlived its starter"
        time.sleep(0.05)
