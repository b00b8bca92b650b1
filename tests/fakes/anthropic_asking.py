"""The real SDK asking the stand-in, over either of its transports."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import httpx2
from anthropic import Anthropic, AsyncAnthropic, DefaultAioHttpClient

from tests.fakes.anthropic_server import API_VERSION, KEY, AnthropicServer

Transport = Literal["httpx2", "aiohttp"]
TRANSPORTS: tuple[Transport, ...] = ("httpx2", "aiohttp")
HEADERS = {"authorization": f"Bearer {KEY}", "anthropic-version": API_VERSION}


def body(content: Any = "Hello?", **more: Any) -> dict[str, Any]:
    """A request for a message."""
    return {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": content}], **more}


def client(server: AnthropicServer, **options: Any) -> Anthropic:
    """A client that tries once."""
    return Anthropic(api_key=KEY, base_url=server.url, **{"max_retries": 0, **options})


def async_client(url: str, transport: Transport, **options: Any) -> AsyncAnthropic:
    """A client that tries once."""
    http = DefaultAioHttpClient() if transport == "aiohttp" else None
    return AsyncAnthropic(api_key=KEY, base_url=url, http_client=http, **{"max_retries": 0, **options})


def ask(url: str, transport: Transport, sent: dict[str, Any], **options: Any) -> Any:
    """The answer to one request."""
    return drive(url, transport, lambda asking: asking.messages.create(**sent), **options)


def drive(url: str, transport: Transport, act: Callable[[AsyncAnthropic], Awaitable[Any]], **options: Any) -> Any:
    """What `act` returns, on a connection that has been used before, as most are."""

    async def main() -> Any:
        async with async_client(url, transport, **options) as asking:
            await asking.messages.create(**body("warm up"))
            return await act(asking)

    return asyncio.run(main())


def post(server: AnthropicServer, sent: Any, path: str = "/v1/messages", **headers: str) -> httpx2.Response:
    """A request that the SDK would not send."""
    return httpx2.post(f"{server.url}{path}", json=sent, headers={**HEADERS, **headers})
