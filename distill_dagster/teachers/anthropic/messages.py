"""Anthropic's Messages API: one HTTP request for each answer."""

import json

import anthropic
import httpx2

from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.anthropic.errors import describe, exhausted, failure, is_final
from distill_dagster.teachers.anthropic.requests import Requests, UnreadableAnswerError, final_error, read_message
from distill_dagster.teachers.asking.conversation import Answered, Failed
from distill_dagster.teachers.asking.http import unconnected
from distill_dagster.teachers.money.prices import Price

PATH = "/v1/messages"
TIMEOUT = anthropic.Timeout(600.0, connect=30.0)


def connect(spec: TeacherSpec) -> anthropic.AsyncAnthropic:
    """The SDK's client on its fastest transport, without retries of its own: they would pay twice unseen."""
    return anthropic.AsyncAnthropic(
        base_url=spec.base_url,
        max_retries=0,
        timeout=TIMEOUT,
        http_client=anthropic.DefaultAioHttpClient(timeout=TIMEOUT, follow_redirects=True),
        open_telemetry=False,
    )


class MessagesClient:
    """Asks one request at a time over an open connection pool."""

    def __init__(self, spec: TeacherSpec, requests: Requests, price: Price) -> None:
        self._client = connect(spec)
        self._requests = requests
        self._price = price

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._client.close()

    async def send(self, request_key: str, messages: str, sample: int) -> Answered | Failed:
        """One request; a sample's index changes nothing in it, only its key."""
        try:
            # The body is stored as it came, so the SDK need not make a model of it: that costs a fifth of a request.
            raw = await self._client.post(PATH, body=self._requests.body(messages), cast_to=httpx2.Response)
        except anthropic.APIStatusError as error:
            if is_final(error):
                return Answered(final_error(request_key, describe(error)))
            return failure(error)
        except anthropic.APIConnectionError as error:
            return unconnected(error, str(self._client.base_url))
        pause = exhausted(raw.headers.raw)
        try:
            answer = read_message(request_key, json.loads(raw.content), self._price, batched=False)
        except (ValueError, UnreadableAnswerError):
            return Failed("unreadable answer", perhaps_billed=True, pause=pause)
        return Answered(answer, pause)
