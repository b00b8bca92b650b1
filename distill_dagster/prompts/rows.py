"""Source rows as one canonical JSON text each, so that it means the same whatever file and neighbours it had."""

import dataclasses
import datetime as dt
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import polars as pl

from distill_dagster.lineage.hashing import canonical_json

BATCH_ROWS = 20_000
BATCH_CHARS = 64_000_000
BATCH_SCHEMA = {"where": pl.String, "row": pl.String}


class RowError(Exception):
    """Why one row cannot be a prompt; becomes a `BadRow` where the row's place is known."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be a prompt.

    Args:
        where: `file.jsonl:12`, or `corpus.rows:row 12`.
        reason: what is wrong and what to write instead.
        partition: the partition it would belong to, None where that cannot be known.
    """

    where: str
    reason: str
    partition: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"

    def in_partition(self, partition: str | None) -> "BadRow":
        """The same row, placed."""
        return dataclasses.replace(self, partition=partition)


@dataclass(frozen=True)
class Row:
    """A row as read: its place, and its columns as plain JSON values."""

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class SourceBatch:
    """Some rows of a source.

    Args:
        frame: `where` (str: the row's place, for messages) and `row` (str: canonical JSON object of its columns).
            Null columns are left out of `row`, so a column that only later rows have changes no earlier row.
        columns: names of the columns these rows have, null ones included.
        bad: the rows that could not be read.
    """

    frame: pl.DataFrame
    columns: frozenset[str]
    bad: tuple[BadRow, ...]


def to_batches(rows: Iterable[Row | BadRow | SourceBatch], max_row_bytes: int) -> Iterator[SourceBatch]:
    """Groups rows into batches of at most `BATCH_ROWS`; rows over `max_row_bytes` of UTF-8 JSON become bad rows.

    What is a batch already passes as it is, in its turn.
    """
    where: list[str] = []
    texts: list[str] = []
    columns: set[str] = set()
    bad: list[BadRow] = []
    chars = 0
    for item in rows:
        if isinstance(item, SourceBatch):
            if where or bad or columns:
                yield _batch(where, texts, columns, bad)
                where, texts, columns, bad, chars = [], [], set(), [], 0
            yield item
            continue
        if isinstance(item, Row):
            columns.update(item.values)
            try:
                text = row_text(item.values, max_row_bytes)
            except RowError as error:
                bad.append(BadRow(item.where, str(error)))
                continue
            where.append(item.where)
            texts.append(text)
            chars += len(text)
        else:
            bad.append(item)
        if len(texts) + len(bad) >= BATCH_ROWS or chars >= BATCH_CHARS:
            yield _batch(where, texts, columns, bad)
            where, texts, columns, bad, chars = [], [], set(), [], 0
    if where or bad or columns:
        yield _batch(where, texts, columns, bad)


def row_text(values: Mapping[str, Any], max_row_bytes: int) -> str:
    """A row's canonical JSON, null columns left out.

    Raises:
        RowError: a value is not valid Unicode or not finite, or the row is larger than `max_row_bytes`.
    """
    try:
        text = canonical_json({name: value for name, value in values.items() if value is not None})
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(f"{error}") from None
    if len(text) * 4 > max_row_bytes and (size := len(text.encode("utf-8"))) > max_row_bytes:
        raise RowError(too_large_row(size, max_row_bytes))
    return text


def too_large(max_row_bytes: int) -> str:
    """The reason for a line so long that it was not even read."""
    return f"longer than prompts.max_row_bytes ({max_row_bytes}) allows; shorten it or raise that"


def too_large_row(size: int, max_row_bytes: int) -> str:
    """The reason for a row of `size` bytes as JSON."""
    return f"{size} bytes as JSON, more than prompts.max_row_bytes ({max_row_bytes}); shorten it or raise that"


def plain(value: Any) -> Any:
    """A value of any source as plain JSON: times become ISO text (UTC where zoned), decimals text, NaN null.

    Raises:
        RowError: the value has no text form that would stay the same (an object, an image, a set).
    """
    if value is None or isinstance(value, (bool, int)):
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return (value if value.tzinfo is None else value.astimezone(dt.UTC)).isoformat()
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if type(value).__module__.split(".")[0] in {"numpy", "pandas"}:
        return _plain_array_value(value)
    raise RowError(f"a value of type {type(value).__name__} cannot be part of a prompt; give text, numbers or lists")


def _plain_array_value(value: Any) -> Any:
    """NumPy scalars and arrays, pandas timestamps and missing values."""
    if type(value).__name__ in {"NAType", "NaTType"}:
        return None
    unwrap = getattr(value, "tolist", None) or getattr(value, "item", None)
    unwrapped = unwrap() if unwrap is not None else value
    if type(unwrapped) is type(value):
        raise RowError(
            f"a value of type {type(value).__name__} cannot be part of a prompt; give text, numbers or lists"
        )
    return plain(unwrapped)


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise RowError(f"a column or key must be text, not {type(key).__name__}: {key!r}")
    return str(key)


def text_of(value: Any) -> str:
    """A plain value as text: what a template prints, and what ids, groups and partition names are made of."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    return canonical_json(value)


def parse_row(text: str) -> dict[str, Any]:
    """The inverse of `row_text`, without the null columns."""
    values = json.loads(text)
    assert isinstance(values, dict)
    return values


def _batch(where: list[str], texts: list[str], columns: set[str], bad: list[BadRow]) -> SourceBatch:
    frame = pl.DataFrame({"where": where, "row": texts}, schema=BATCH_SCHEMA)
    return SourceBatch(frame=frame, columns=frozenset(columns), bad=tuple(bad))
