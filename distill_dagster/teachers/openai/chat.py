"""The chat completions API of OpenAI-compatible servers: one HTTP request for each answer."""

import openai

from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.asking.conversation import Answered, Failed
from distill_dagster.teachers.asking.http import unconnected
from distill_dagster.teachers.money.prices import Price
from distill_dagster.teachers.openai.errors import describe, exhausted, failure, is_final
from distill_dagster.teachers.openai.requests import (
    Requests,
    UnknownCostError,
    UnreadableAnswerError,
    final_error,
    read_completion,
)

TIMEOUT = openai.Timeout(600.0, connect=30.0)


def connect(spec: TeacherSpec, key: str) -> openai.AsyncOpenAI:
    """The SDK's client on its fastest transport, without retries of its own: they would pay twice unseen."""
    return openai.AsyncOpenAI(
        base_url=spec.base_url,
        api_key=key,
        max_retries=0,
        timeout=TIMEOUT,
        http_client=openai.DefaultAioHttpClient(timeout=TIMEOUT, follow_redirects=True),
    )


class OpenAiClient:
    """Asks one request at a time over an open connection pool."""

    def __init__(self, spec: TeacherSpec, requests: Requests, price: Price, key: str) -> None:
        self._client = connect(spec, key)
        self._base_url = str(spec.base_url)
        self._requests = requests
        self._price = price

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._client.close()

    async def send(self, request_key: str, messages: str, sample: int) -> Answered | Failed:
        """One request; a sample differs from the others in its seed, where one is declared."""
        body = self._requests.body(messages, sample)
        try:
            raw = await self._client.chat.completions.with_raw_response.create(**body)
        except openai.APIStatusError as error:
            if is_final(error):
                return Answered(final_error(request_key, describe(error)))
            return failure(error)
        except openai.APIConnectionError as error:
            return unconnected(error, self._base_url)
        pause = exhausted(raw.headers)
        try:
            return Answered(read_completion(request_key, raw.content, self._price), pause)
        except UnreadableAnswerError as error:
            return Failed(f"unreadable answer ({error})", perhaps_billed=True, pause=pause)
        except UnknownCostError as error:
            return Failed(str(error), perhaps_billed=True, pause=pause, stop=self._no_usage())

    def _no_usage(self) -> str:
        return (
            f"{self._base_url} does not say how many tokens its answers take (no `usage`), so their cost is unknown; "
            "ask a server that counts them, or write `prices: {input: 0, output: 0}` beside its `model:` if it costs "
            "nothing"
        )
