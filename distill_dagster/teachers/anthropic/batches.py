"""Anthropic's Message Batches API: create, look up, list and read results, each failure told apart."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

import anthropic
import httpx2
from anthropic.types.messages import MessageBatch

from distill_dagster.errors import TeacherError, UnavailableError
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.anthropic.errors import PERHAPS_BILLED as UNCLEAR
from distill_dagster.teachers.anthropic.errors import THROTTLED, describe, failure, stop_reason
from distill_dagster.teachers.anthropic.requests import KEY_VARIABLES, Requests, final_error, read_message
from distill_dagster.teachers.asking.http import said
from distill_dagster.teachers.money.prices import Price
from distill_dagster.teachers.protocol import Response

READ_RETRIES = 4
TIMEOUT_S = 600.0
PAGE = 100
# Errors of a single request that sending it again cannot mend.
FINAL_TYPES = ("invalid_request_error", "request_too_large")


class UnclearCreationError(Exception):
    """The batch may have been made: its answer was lost."""


class RefusedCreationError(Exception):
    """The batch was certainly not made.

    Attributes:
        stop: what the user has to do before it is tried again; None where waiting may be enough.
        wait_s: how long to wait.
    """

    def __init__(self, reason: str, stop: str | None, wait_s: float) -> None:
        super().__init__(reason)
        self.stop = stop
        self.wait_s = wait_s


class BrokenResultsError(Exception):
    """The results stream ended early or held something unreadable."""


@dataclass(frozen=True)
class ProviderBatch:
    """A batch as the provider shows it; times in milliseconds since the epoch.

    Attributes:
        has_results: whether they can be read; the provider keeps them for 29 days.
        counts: how many requests are processing, succeeded, errored, canceled, expired.
    """

    id: str
    has_ended: bool
    has_results: bool
    counts: Mapping[str, int]
    created_at: int
    ended_at: int | None

    @property
    def requests(self) -> int:
        """How many requests it has, whatever became of them."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class BatchResult:
    """How one request of a batch ended: a final answer, or none (expired, cancelled, an error that may pass)."""

    request_key: str
    response: Response | None


class BatchClient:
    """The calls on batches. Only `create` is not repeated by itself."""

    def __init__(self, spec: TeacherSpec, requests: Requests, price: Price) -> None:
        self._client = anthropic.Anthropic(
            base_url=spec.base_url, max_retries=READ_RETRIES, timeout=TIMEOUT_S, open_telemetry=False
        )
        self._requests = requests
        self._price = price

    def __enter__(self) -> "BatchClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def create(self, conversations: Iterable[tuple[str, str]]) -> ProviderBatch:
        """Sends (request key, messages) pairs as one batch, once.

        Raises:
            RefusedCreationError: it was not made.
            UnclearCreationError: nobody knows.
        """
        bodies: list[Any] = [{"custom_id": key, "params": self._requests.body(text)} for key, text in conversations]
        try:
            made = self._client.with_options(max_retries=0).messages.batches.create(requests=bodies)
        except anthropic.APIStatusError as error:
            if error.status_code in UNCLEAR or (error.status_code >= 500 and error.status_code not in THROTTLED):
                raise UnclearCreationError(describe(error)) from None
            pause = failure(error).pause
            stop = stop_reason(error)
            if stop is None and error.status_code in (400, 413, 422):
                stop = f"the API refused the batch ({describe(error)})"
            raise RefusedCreationError(describe(error), stop, pause.seconds if pause else 0.0) from None
        except (anthropic.APIError, ValueError, httpx2.HTTPError) as error:
            raise UnclearCreationError(type(error).__name__) from None
        return _provider_batch(made)

    def retrieve(self, provider_id: str) -> ProviderBatch:
        """One batch as it stands.

        Raises:
            TeacherError: the API cannot be asked, or has no such batch.
        """
        try:
            return _provider_batch(self._client.messages.batches.retrieve(provider_id))
        except anthropic.NotFoundError:
            raise TeacherError(
                f"the API has no batch {provider_id} for this key; use a key of the workspace that sent it, or give it "
                f"up with `distill batches NAME --give-up {provider_id}` (its requests are then asked again)"
            ) from None
        except (anthropic.APIError, ValueError) as error:
            raise _unavailable(f"batch {provider_id}", error) from None

    def listed(self, since_ms: int) -> Iterator[ProviderBatch]:
        """All batches of the key's workspace created since, newest first.

        Raises:
            TeacherError: the API cannot be asked.
        """
        try:
            for batch in self._client.messages.batches.list(limit=PAGE):
                seen = _provider_batch(batch)
                if seen.created_at < since_ms:
                    return
                yield seen
        except (anthropic.APIError, ValueError) as error:
            raise _unavailable("the list of batches", error) from None

    def results(self, provider_id: str) -> Iterator[tuple[str, str]]:
        """(request key, JSON line) of an ended batch, in the provider's order.

        Raises:
            BrokenResultsError: the stream broke or a line is unreadable. A stream that is cut between two lines breaks
                nothing: the caller has to count.
        """
        try:
            with self._client.messages.batches.with_streaming_response.results(provider_id) as raw:
                for line in raw.iter_lines():
                    if line.strip():
                        yield str(json.loads(line)["custom_id"]), line
        except (anthropic.APIError, httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            raise BrokenResultsError(f"{type(error).__name__} while reading the results of {provider_id}") from None

    def cancel(self, provider_id: str) -> None:
        """Asks the provider to stop; what it has answered by then is billed and kept.

        Raises:
            TeacherError: the API cannot be asked.
        """
        try:
            self._client.messages.batches.cancel(provider_id)
        except (anthropic.APIError, ValueError) as error:
            raise _unavailable(f"batch {provider_id}", error) from None

    def read(self, line: str) -> BatchResult:
        """One line of results.

        Raises:
            UnreadableAnswerError: a result that succeeded holds no message.
        """
        row = json.loads(line)
        key, result = str(row["custom_id"]), row["result"]
        if result["type"] == "succeeded":
            return BatchResult(key, read_message(key, result.get("message"), self._price, batched=True))
        if result["type"] == "errored":
            error = (result.get("error") or {}).get("error") or {}
            if error.get("type") in FINAL_TYPES:
                return BatchResult(
                    key, final_error(key, said(f"{error.get('type')}: {error.get('message')}", *KEY_VARIABLES))
                )
        return BatchResult(key, None)


def _provider_batch(batch: MessageBatch) -> ProviderBatch:
    return ProviderBatch(
        id=batch.id,
        has_ended=batch.processing_status == "ended",
        has_results=batch.results_url is not None,
        counts={name: int(count) for name, count in batch.request_counts.to_dict().items()},  # type: ignore[call-overload]
        created_at=_ms(batch.created_at),
        ended_at=_ms(batch.ended_at) if batch.ended_at else None,
    )


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _unavailable(what: str, error: Exception) -> TeacherError:
    if not isinstance(error, anthropic.APIStatusError):
        return UnavailableError(f"{what} cannot be read now ({type(error).__name__}); run again later")
    stop = stop_reason(error)
    return TeacherError(stop) if stop else UnavailableError(f"{what}: {describe(error)}; run again later")
