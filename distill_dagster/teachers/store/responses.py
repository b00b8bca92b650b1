"""The response store: every answer ever paid for, under its request key, durable before it counts."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from sqlalchemy import Connection, Engine, func, select

from distill_dagster.teachers.protocol import Response, ResponseStatus, TeacherIdentity
from distill_dagster.teachers.store.database import insert_new, open_database, open_to_read, reading, writing
from distill_dagster.teachers.store.frames import STORED, Kinds, answers_frame
from distill_dagster.teachers.store.schema import batch_requests, responses

CHUNK = 10_000

_COLUMNS = (
    *("request_key", "status", "stop_reason", "text", "thinking", "token_ids", "input_tokens", "output_tokens"),
    *("cost_microusd", "cache_write_tokens", "cache_read_tokens", "detail"),
)
FETCHED: Kinds = {"completion" if name == "text" else name: STORED[name] for name in _COLUMNS}
"""What curation needs of an answer; its text is the completion."""


class ResponseStore:
    """Answers by request key. Nothing but `distill forget` ever removes one."""

    def __init__(self, url: str) -> None:
        self.engine: Engine = open_database(url)

    @classmethod
    def to_read(cls, url: str) -> "ResponseStore | None":
        """A store that is only looked at, so that not even its files are made; None where there is none yet.

        Raises:
            StorageError: the database cannot be reached.
        """
        engine = open_to_read(url)
        if engine is None:
            return None
        store = cls.__new__(cls)
        store.engine = engine
        return store

    def missing(self, keys: pl.Series) -> pl.Series:
        """Which of the keys have no answer yet, in their order."""
        known: list[str] = []
        with reading(self.engine) as connection:
            for chunk in _chunks(keys):
                stored = select(responses.c.request_key).where(responses.c.request_key.in_(chunk))
                known.extend(connection.execute(stored).scalars())
        return keys.filter(~keys.is_in(pl.Series(known, dtype=pl.String).implode()))

    def in_batches(self, keys: pl.Series) -> pl.Series:
        """Which of the keys travel in a provider batch that is not ingested yet."""
        under_way: list[str] = []
        with reading(self.engine) as connection:
            for chunk in _chunks(keys):
                held = select(batch_requests.c.request_key).where(batch_requests.c.request_key.in_(chunk))
                under_way.extend(connection.execute(held).scalars())
        return keys.filter(keys.is_in(pl.Series(under_way, dtype=pl.String).implode()))

    def refused(self, keys: pl.Series) -> pl.Series:
        """Which of the keys have a refusal as their answer."""
        known: list[str] = []
        with reading(self.engine) as connection:
            for chunk in _chunks(keys):
                refusals = select(responses.c.request_key).where(
                    responses.c.request_key.in_(chunk), responses.c.status == ResponseStatus.REFUSED.value
                )
                known.extend(connection.execute(refusals).scalars())
        return keys.filter(keys.is_in(pl.Series(known, dtype=pl.String).implode()))

    def open_in(self, connection: Connection, keys: Sequence[str]) -> list[str]:
        """Which keys have no answer and travel in no batch, inside a transaction of the caller's."""
        stored = select(responses.c.request_key).where(responses.c.request_key.in_(keys))
        held = select(batch_requests.c.request_key).where(batch_requests.c.request_key.in_(keys))
        taken = set(connection.execute(stored.union_all(held)).scalars())
        return [key for key in keys if key not in taken]

    def has_answer_of(self, identity: TeacherIdentity) -> bool:
        """Whether this teacher, asked this way, ever gave an answer that is no error."""
        with reading(self.engine) as connection:
            given = select(responses.c.request_key).where(
                responses.c.identity == identity.digest, responses.c.status != ResponseStatus.ERROR.value
            )
            return connection.execute(given.limit(1)).first() is not None

    def usual_usage(self, identity: TeacherIdentity) -> tuple[int, float, float]:
        """How many answers of a teacher are stored, and their mean input and output tokens."""
        with reading(self.engine) as connection:
            means = select(func.count(), func.avg(responses.c.input_tokens), func.avg(responses.c.output_tokens)).where(
                responses.c.identity == identity.digest, responses.c.status != ResponseStatus.ERROR.value
            )
            count, read, written = connection.execute(means).one()
            return int(count), float(read or 0), float(written or 0)

    def fetch(self, keys: pl.Series) -> pl.DataFrame:
        """The stored answers of the keys (columns FETCHED), sorted by request key; keys without one are left out."""
        frames = [answers_frame([], FETCHED)]
        wanted = select(*(responses.c[name] for name in _COLUMNS))
        with reading(self.engine) as connection:
            for chunk in _chunks(keys):
                rows = connection.execute(wanted.where(responses.c.request_key.in_(chunk))).all()
                frames.append(answers_frame(rows, FETCHED))
        return pl.concat(frames).sort("request_key")

    def add_in(
        self,
        connection: Connection,
        answers: Sequence[Response],
        identity: TeacherIdentity,
        *,
        transport: str,
        client_version: str,
    ) -> None:
        """Stores answers inside a transaction of the caller's; an answer that is there already stays as it is."""
        made = datetime.now(UTC).isoformat(timespec="seconds")
        common = {
            "provider": identity.provider,
            "model": identity.model,
            "identity": identity.digest,
            "transport": transport,
            "client_version": client_version,
            "created_at": made,
        }
        insert_new(connection, responses, [_row(answer) | common for answer in answers])

    def count(self) -> int:
        """How many answers are stored."""
        with reading(self.engine) as connection:
            return connection.execute(select(func.count()).select_from(responses)).scalar_one()

    def writing(self, *, survives_power_loss: bool = True) -> AbstractContextManager[Connection]:
        """A transaction on the store's database; see `database.writing`."""
        return writing(self.engine, survives_power_loss=survives_power_loss)


def _row(answer: Response) -> dict[str, Any]:
    return {
        "request_key": answer.request_key,
        "status": answer.status.value,
        "stop_reason": answer.stop_reason,
        "text": _storable(answer.text),
        "thinking": _storable(answer.thinking),
        "content": answer.content,
        "token_ids": None if answer.token_ids is None else np.asarray(answer.token_ids, dtype="<i4").tobytes(),
        "input_tokens": answer.usage.input_tokens,
        "output_tokens": answer.usage.output_tokens,
        "cost_microusd": answer.usage.cost_microusd,
        "cache_write_tokens": answer.usage.cache_write_tokens or None,
        "cache_read_tokens": answer.usage.cache_read_tokens or None,
        "detail": _storable(answer.detail),
        "response_id": answer.response_id,
    }


def _storable(text: str | None) -> str | None:
    """A text without NUL, which PostgreSQL cannot hold; the same on every database, so that versions are."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if text else text


def _chunks(keys: pl.Series) -> Iterator[list[str]]:
    for start in range(0, len(keys), CHUNK):
        yield keys.slice(start, CHUNK).to_list()
