"""What a teacher is to the rest of the package: an identity, a check, and answers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import polars as pl
import polars_hash as plh

from distill_dagster.errors import TeacherError
from distill_dagster.lineage.hashing import digest

# Bumped when the fields below, or how they are hashed, change: every key then changes with it.
KEY_VERSION = 1
REQUEST_COLUMNS = ("request_key", "messages", "sample")


class ResponseStatus(StrEnum):
    """How an answer ended, whatever the provider calls it."""

    ANSWERED = "answered"
    REFUSED = "refused"
    TRUNCATED = "truncated"
    TOOL_USE = "tool_use"
    ERROR = "error"


@dataclass(frozen=True)
class TeacherIdentity:
    """Everything but the messages and the sample that affects an answer.

    What is left out and kept as columns of the response instead: API and SDK version, transport, URL,
    timeouts, concurrency, batch size, and the name a local folder happens to have.

    Attributes:
        provider: e.g. `anthropic`.
        model: the provider's model id; for a local teacher the digest of its weights.
        parameters: output-affecting settings, as plain JSON values.
    """

    provider: str
    model: str
    parameters: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the identity."""
        return digest(
            {
                "key_version": KEY_VERSION,
                "provider": self.provider,
                "model": self.model,
                "parameters": dict(self.parameters),
            }
        )

    def request_keys(self, prompts: pl.DataFrame) -> pl.Series:
        """Request key (SHA-256, hex) of each row.

        Args:
            prompts: `messages`, the canonical JSON text of the conversation with its system prompt;
                `sample`, the index of the sample from 0.
        """
        return request_keys(self.digest, prompts)


def request_keys(identity: str, prompts: pl.DataFrame) -> pl.Series:
    """`TeacherIdentity.request_keys` of the identity with this digest."""
    messages: pl.Expr = plh.col("messages").chash.sha2_256()
    key = plh.concat_str([pl.lit(identity), messages, pl.col("sample").cast(pl.String)], separator=":")
    return prompts.select(key.chash.sha2_256().alias("request_key")).to_series()


@dataclass(frozen=True)
class Usage:
    """Tokens as the provider counts them, and what they cost.

    Attributes:
        input_tokens: all of them, those written to and read from the prompt cache included.
        cache_write_tokens: of these, the ones written to the provider's prompt cache.
        cache_read_tokens: of these, the ones read from it.
    """

    input_tokens: int
    output_tokens: int
    cost_microusd: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0


@dataclass(frozen=True)
class Response:
    """One answer, as it is stored.

    Attributes:
        text: the answer's text, without thinking; None where there is none.
        thinking: the reasoning before the answer, where a local teacher returned it in full.
        content: the provider's raw content blocks, as canonical JSON.
        token_ids: what a local teacher produced, stop token included where it produced one.
        detail: refusal category or error text.
    """

    request_key: str
    status: ResponseStatus
    stop_reason: str | None
    text: str | None
    content: str
    usage: Usage
    thinking: str | None = None
    token_ids: Sequence[int] | None = None
    detail: str | None = None
    response_id: str | None = None


class Desk(Protocol):
    """Where a teacher hands its answers in, and where it learns whether it may go on."""

    def deliver(self, answers: Sequence[Response]) -> None:
        """Stores answers; they are durable when it returns."""
        ...

    def lost(self, request_key: str) -> bool:
        """An answer that was perhaps billed never arrived: it counts as spent in full, and is reserved once more.

        Returns:
            Whether the budget allows asking again.
        """
        ...


@dataclass
class Unanswered:
    """Requests that a teacher leaves without a final answer; they may be asked again.

    Attributes:
        unbilled: request keys the provider did not accept.
        perhaps_billed: request keys whose answer was lost on the way.
        reasons: how often each kind of failure was met.
        stop: why asking on would be pointless (credentials, spending limit), if it would.
    """

    unbilled: list[str] = field(default_factory=list)
    perhaps_billed: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    stop: TeacherError | None = None

    def __len__(self) -> int:
        return len(self.unbilled) + len(self.perhaps_billed)


class Teacher(Protocol):
    """Four methods that say all a teacher must do, and what its answers are filed under.

    Attributes:
        transport: how answers travel, kept with each.
        version: library and version that asked, kept with each.
    """

    transport: str
    version: str

    @property
    def identity(self) -> TeacherIdentity:
        """What its request keys hash."""
        ...

    def check(self) -> None:
        """Makes sure that it can be asked, before anything is claimed.

        Raises:
            TeacherError: a key, a model or a price is missing.
        """
        ...

    def most_microusd(self, requests: pl.DataFrame) -> pl.Series:
        """The most each request (column messages) can cost, in micro-dollars."""
        ...

    def answer(self, batches: Iterator[pl.DataFrame], desk: Desk) -> Unanswered:
        """Asks every request of the batches (REQUEST columns), handing answers in as they come.

        A batch is claimed when it is taken from the iterator, so take one only when there is room for it.
        """
        ...
