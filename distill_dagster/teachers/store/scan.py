"""The response store as an Arrow stream, for whoever reads all of it; nothing is held but one batch."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from sqlalchemy import make_url, select

from distill_dagster.teachers.store.database import open_database, reading
from distill_dagster.teachers.store.frames import STORED, Kinds, answers_frame
from distill_dagster.teachers.store.schema import responses

BATCH_ROWS = 4_096
FACTS = (
    *("provider", "model", "identity", "status", "stop_reason", "input_tokens", "output_tokens", "cost_microusd"),
    *("transport", "client_version", "created_at"),
)
"""What is known of an answer beside its texts."""


class ResponsesScan:
    """All stored answers; a new stream each time it is read. A store that was never made has none."""

    def __init__(self, url: str, columns: Sequence[str] = tuple(STORED)) -> None:
        """Args:
        columns: which of STORED; `request_key` is always the first.
        """
        self._url = url
        self._kinds = _kinds(columns)
        self._schema = _arrow(pl.DataFrame(schema=self._kinds)).schema

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        reader = pa.RecordBatchReader.from_batches(self._schema, self._batches())
        return reader.__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        if not _exists(self._url):
            return
        after = ""
        while rows := self._page(after):
            yield from _arrow(answers_frame(rows, self._kinds)).cast(self._schema).to_batches()
            after = rows[-1][0]

    def _page(self, after: str) -> Sequence[Any]:
        """The next rows in the order of request keys; no cursor stays open, on either database."""
        wanted = select(*(responses.c[name] for name in self._kinds)).where(responses.c.request_key > after)
        with reading(open_database(self._url)) as connection:
            return connection.execute(wanted.order_by(responses.c.request_key).limit(BATCH_ROWS)).all()


def _kinds(columns: Iterable[str]) -> Kinds:
    """The columns with their types, the request key first."""
    return {name: STORED[name] for name in ("request_key", *columns)}


def _exists(url: str) -> bool:
    """Whether there is anything to open; opening an SQLite file makes it."""
    parsed = make_url(url)
    return parsed.get_backend_name() != "sqlite" or Path(parsed.database or "").is_file()


def stored_answers(url: str, keys: Iterable[str]) -> pl.DataFrame:
    """What is stored under some request keys (FACTS columns), sorted by request key."""
    kinds = _kinds(FACTS)
    frames = [pl.DataFrame(schema=kinds)]
    wanted = sorted(set(keys))
    if wanted and _exists(url):
        columns = select(*(responses.c[name] for name in kinds))
        with reading(open_database(url)) as connection:
            for start in range(0, len(wanted), BATCH_ROWS):
                part = columns.where(responses.c.request_key.in_(wanted[start : start + BATCH_ROWS]))
                if rows := connection.execute(part).all():
                    frames.append(answers_frame(rows, kinds))
    return pl.concat(frames).sort("request_key")


def keys_like(url: str, start: str, most: int) -> list[str]:
    """Up to `most` stored request keys that begin with `start`, sorted."""
    if not _exists(url):
        return []
    begins = responses.c.request_key.startswith(start, autoescape=True)
    with reading(open_database(url)) as connection:
        wanted = select(responses.c.request_key).where(begins).order_by(responses.c.request_key).limit(most)
        return list(connection.execute(wanted).scalars())


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
