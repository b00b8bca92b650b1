"""What can go wrong with the stand-in for Anthropic's API, as the real SDK shows it on both of its transports."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic

from tests.fakes.anthropic_asking import TRANSPORTS, Transport, ask, async_client, body, client
from tests.fakes.anthropic_faults import REFUSAL_CATEGORIES
from tests.fakes.anthropic_server import (
    AnthropicServer,
    FaultMix,
    Reply,
    anthropic_server,
    refusal,
    spend_limit,
    thinking,
    truncated,
    user_spend_limit,
)

QUICK_S = 1.0


@pytest.fixture
def server() -> Iterator[AnthropicServer]:
    with anthropic_server() as running:
        yield running


@pytest.fixture(scope="module")
def shared() -> Iterator[AnthropicServer]:
    """For many tests that leave nothing behind."""
    with anthropic_server() as running:
        yield running


STATUS_ERRORS = {
    400: (anthropic.BadRequestError, "invalid_request_error"),
    401: (anthropic.AuthenticationError, "authentication_error"),
    402: (anthropic.PaymentRequiredError, "billing_error"),
    403: (anthropic.PermissionDeniedError, "permission_error"),
    404: (anthropic.NotFoundError, "not_found_error"),
    408: (anthropic.RequestTimeoutError, "timeout_error"),
    409: (anthropic.ConflictError, "conflict_error"),
    413: (anthropic.ContentTooLargeError, "request_too_large"),
    422: (anthropic.UnprocessableEntityError, "invalid_request_error"),
    429: (anthropic.RateLimitError, "rate_limit_error"),
    500: (anthropic.InternalServerError, "api_error"),
    504: (anthropic.GatewayTimeoutError, "timeout_error"),
    529: (anthropic.OverloadedError, "overloaded_error"),
}


@pytest.mark.parametrize("status", STATUS_ERRORS)
def test_every_error_has_its_class_and_type(shared: AnthropicServer, status: int) -> None:
    shared.script = lambda body, seen: Reply(status=status, headers={"retry-after": "7"})
    expected, kind = STATUS_ERRORS[status]

    with pytest.raises(anthropic.APIStatusError) as raised:
        client(shared).messages.create(**body())

    assert type(raised.value) is expected
    assert raised.value.type == kind
    assert raised.value.request_id
    assert raised.value.response.headers["retry-after"] == "7"
    assert shared.accepted == []


def test_spend_limits(server: AnthropicServer) -> None:
    server.script = lambda body, seen: [spend_limit(), user_spend_limit(), user_spend_limit("workspace")][seen]
    asking = client(server)

    with pytest.raises(anthropic.RateLimitError) as enforced:
        asking.messages.create(**body())
    with pytest.raises(anthropic.BadRequestError, match="reached your specified API usage limits"):
        asking.messages.create(**body())
    with pytest.raises(anthropic.BadRequestError, match="reached your specified workspace API usage limits"):
        asking.messages.create(**body())

    assert type(enforced.value).__name__ == "EnforcedSpendLimitReachedError"
    assert enforced.value.error_code == "enforced_spend_limit_reached"
    assert "retry-after" not in enforced.value.response.headers


def fault_of(fault: Any) -> Callable[[dict[str, Any], int], Reply]:
    return lambda sent, seen: Reply(fault=None if sent["messages"][0]["content"] == "warm up" else fault)


@pytest.mark.parametrize(("fault", "billed"), [("reset_before", 0), ("reset_after", 1)])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_reset_connection(server: AnthropicServer, transport: Transport, fault: str, billed: int) -> None:
    server.script = fault_of(fault)

    with pytest.raises(anthropic.APIConnectionError) as raised:
        ask(server.url, transport, body())

    assert type(raised.value) is anthropic.APIConnectionError
    # aiohttp calls it a failure to connect, though the request was sent and may be billed.
    assert type(raised.value.__cause__) is {"httpx2": httpx2.ReadError, "aiohttp": httpx2.ConnectError}[transport]
    assert server.accepted.count("Hello?") == billed


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_sdk_sends_again_after_a_reset(server: AnthropicServer, transport: Transport) -> None:
    server.script = lambda sent, seen: Reply(fault="reset_after" if seen == 0 else None)

    ask(server.url, transport, body(), max_retries=1)

    assert server.accepted == ["warm up", "warm up", "Hello?", "Hello?"]


@pytest.mark.parametrize("fault", ["garbage", "empty"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_body_that_is_no_json_raises_no_error_of_the_sdk(
    server: AnthropicServer, transport: Transport, fault: str
) -> None:
    server.script = fault_of(fault)

    with pytest.raises(json.JSONDecodeError):
        ask(server.url, transport, body(), max_retries=2)

    assert server.accepted.count("Hello?") == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_page_of_html_comes_back_as_a_string(server: AnthropicServer, transport: Transport) -> None:
    server.script = fault_of("html")

    assert ask(server.url, transport, body()) == "<html><body>502 Bad Gateway</body></html>"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_stalled_answer_times_out(server: AnthropicServer, transport: Transport) -> None:
    server.script = fault_of("stall")

    with pytest.raises(anthropic.APITimeoutError):
        ask(server.url, transport, body(), timeout=QUICK_S)

    assert server.stalled.is_set()
    assert server.accepted.count("Hello?") == 1


def test_a_server_that_stops_ends_what_stalls_or_is_slow() -> None:
    with anthropic_server() as server:
        server.script = lambda sent, seen: Reply(fault="stall") if seen else Reply(delay_s=600)
        failures: list[BaseException] = []

        def wait_long() -> None:
            try:
                client(server).messages.create(**body())
            except anthropic.APIConnectionError as error:
                failures.append(error)

        threads = [threading.Thread(target=wait_long, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert server.stalled.wait(10)
        started = time.monotonic()
    for thread in threads:
        thread.join(10)

    assert len(failures) == 1
    assert time.monotonic() - started < 5


def test_endings_that_are_no_errors(server: AnthropicServer) -> None:
    replies = [*(refusal(category) for category in REFUSAL_CATEGORIES), truncated("Half an"), thinking("Yes.", "Hm.")]
    server.script = lambda sent, seen: replies[seen]
    messages = [client(server).messages.create(**body()) for _ in replies]

    refused = messages[: len(REFUSAL_CATEGORIES)]
    assert {message.stop_reason for message in refused} == {"refusal"}
    assert tuple(m.stop_details.category for m in refused if m.stop_details) == REFUSAL_CATEGORIES
    assert messages[-2].stop_reason == "max_tokens"
    assert [block.type for block in messages[-1].content] == ["thinking", "text"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_mix_injects_everything_and_foretells_how_it_ends(server: AnthropicServer, transport: Transport) -> None:
    mix = FaultMix(rate=0.1, seed=1)
    server.script = mix
    bodies = [body(f"question {number}") for number in range(150)]

    async def end_of(asking: AsyncAnthropic, sent: dict[str, Any]) -> str:
        while True:
            try:
                message = await asking.messages.create(**sent)
            except (anthropic.BadRequestError, anthropic.ContentTooLargeError):
                return "error"
            except (json.JSONDecodeError, anthropic.APIError):
                continue
            return {"refusal": "refused", "max_tokens": "truncated"}.get(str(message.stop_reason), "answered")

    async def main() -> list[str]:
        async with async_client(server.url, transport) as asking:
            return await asyncio.gather(*(end_of(asking, sent) for sent in bodies))

    expected = [mix.expected(sent) for sent in bodies]
    assert asyncio.run(main()) == expected
    assert set(expected) == {"answered", "refused", "truncated", "error"}
    replies = [mix(sent, seen) for sent in bodies for seen in range(3)]
    kinds = Counter(reply.fault or reply.status for reply in replies)
    assert kinds.keys() == {200, 400, 413, 429, 500, 529, "reset_before", "reset_after", "garbage"}
    assert all(20 <= kinds[kind] <= 80 for kind in (429, 500, 529, "reset_before", "reset_after", "garbage"))
    assert any(0.05 <= reply.delay_s <= 0.2 for reply in replies)
    assert any(reply.blocks and reply.blocks[0]["type"] == "thinking" for reply in replies)


def test_a_mix_that_is_more_than_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="rate"):
        FaultMix(rate=0.2)
