"""Names the partition of each prompt: a column's value, a hash shard, a day, week or month in UTC, or `all`."""

import datetime as dt
import unicodedata
from typing import Any

from distill_dagster.lineage.hashing import sha256_text
from distill_dagster.prompts.identity import scalar_text
from distill_dagster.prompts.rows import RowError
from distill_dagster.spec.prompts import PartitionSpec
from distill_dagster.storage import encode_partition

ALL = "all"
_MAX_ENCODED_BYTES = 200  # file systems allow names of 255 bytes
_SALT = "shard:v1:"


def partition_of(spec: PartitionSpec | None, row: dict[str, Any], prompt_id: str) -> str:
    """A row's partition.

    Raises:
        RowError: the partition column is null, empty, unfit as a name, not a date, or before the first day.
    """
    if spec is None:
        return ALL
    if spec.by is not None:
        return _checked(scalar_text(row, spec.by, "partition.by"), spec.by)
    if spec.shards is not None:
        return shard_of(prompt_id, spec.shards)
    return _period_of(spec, row)


def shard_of(prompt_id: str, shards: int) -> str:
    """The hash shard of a prompt, zero-padded: `07` of 64."""
    return _shard_name(int(sha256_text(_SALT + prompt_id)[:16], 16) % shards, shards)


def shard_names(shards: int) -> list[str]:
    """All hash shards, in order."""
    return [_shard_name(number, shards) for number in range(shards)]


def partition_columns(spec: PartitionSpec | None) -> tuple[str, ...]:
    """The columns that partitioning reads."""
    return tuple(column for column in (spec.by, spec.date_column) if column is not None) if spec is not None else ()


def _shard_name(number: int, shards: int) -> str:
    return f"{number:0{len(str(shards - 1))}d}"


def _checked(name: str, column: str) -> str:
    if len(encode_partition(name)) > _MAX_ENCODED_BYTES:
        raise RowError(f"prompts.partition.by: column {column!r} is too long for a name ({name[:40]!r}…)")
    if "..." in name or any(unicodedata.category(char) == "Cc" for char in name):
        raise RowError(f"prompts.partition.by: column {column!r} has control characters or dots in a row: {name!r}")
    return name


def _period_of(spec: PartitionSpec, row: dict[str, Any]) -> str:
    """The first day of the day, week or month that a row's date is in."""
    column = spec.date_column
    assert column is not None
    assert spec.start is not None
    day = _utc_day(scalar_text(row, column, "partition"), column)
    if day < spec.start:
        raise RowError(f"prompts.partition: {day} is before the first day {spec.start}; move `start` or leave it out")
    return spec.first_day(day).isoformat()


def _utc_day(text: str, column: str) -> dt.date:
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise RowError(
            f"prompts.partition: column {column!r} is {text[:40]!r}, not a date; "
            "write 2026-01-31 or 2026-01-31T08:00:00Z"
        ) from None
    return (moment if moment.tzinfo is None else moment.astimezone(dt.UTC)).date()
