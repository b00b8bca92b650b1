"""Partition names by column, shard and UTC day."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from distill_dagster.prompts.partitions import partition_of, shard_names, shard_of
from distill_dagster.prompts.rows import RowError
from distill_dagster.spec.prompts import PartitionSpec

BY = PartitionSpec(by="topic")
DAILY = PartitionSpec(daily="at", start=dt.date(2026, 1, 1))
WEEKLY = PartitionSpec(weekly="at", start=dt.date(2026, 1, 5))
MONTHLY = PartitionSpec(monthly="at", start=dt.date(2026, 1, 1))


def test_without_a_declaration_there_is_one_partition() -> None:
    assert partition_of(None, {}, "id") == "all"


@pytest.mark.parametrize(("value", "name"), [("a/b", "a/b"), (7, "7"), (True, "true"), ("日本", "日本"), ("..", "..")])
def test_a_columns_value_names_the_partition(value: Any, name: str) -> None:
    assert partition_of(BY, {"topic": value}, "id") == name


@pytest.mark.parametrize("value", [None, "", "  ", [1], "a\nb", "a...b", "漢" * 30])
def test_a_value_unfit_as_a_name_is_a_bad_row(value: Any) -> None:
    with pytest.raises(RowError, match=r"prompts\.partition\.by: column 'topic'"):
        partition_of(BY, {"topic": value}, "id")


@given(st.text(min_size=1), st.integers(1, 4096))
def test_every_prompt_has_a_shard(prompt_id: str, shards: int) -> None:
    assert shard_of(prompt_id, shards) in shard_names(shards)


def test_shard_names_are_padded() -> None:
    assert shard_names(1) == ["0"]
    assert shard_names(10)[-1] == "9"
    assert shard_names(64)[7] == "07"
    assert {shard_of(str(i), 8) for i in range(200)} == set(shard_names(8))


@pytest.mark.parametrize(
    ("value", "day"),
    [
        ("2026-02-03", "2026-02-03"),
        ("2026-02-03T23:30:00Z", "2026-02-03"),
        ("2026-02-03T23:30:00-01:00", "2026-02-04"),
        ("2026-02-03 00:30:00", "2026-02-03"),
    ],
)
def test_days_are_utc(value: str, day: str) -> None:
    assert partition_of(DAILY, {"at": value}, "id") == day


@pytest.mark.parametrize(
    ("spec", "value", "name"),
    [
        (WEEKLY, "2026-01-05", "2026-01-05"),
        (WEEKLY, "2026-01-11T23:59:59Z", "2026-01-05"),
        (WEEKLY, "2026-01-11T23:30:00-01:00", "2026-01-12"),
        (MONTHLY, "2026-01-31", "2026-01-01"),
        (MONTHLY, "2028-02-29T12:00:00Z", "2028-02-01"),
    ],
)
def test_weeks_begin_on_monday_and_months_on_the_first(spec: PartitionSpec, value: str, name: str) -> None:
    assert partition_of(spec, {"at": value}, "id") == name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weekly": "at", "start": "2026-01-01"}, "write 2025-12-29"),
        ({"monthly": "at", "start": "2026-01-15"}, "write 2026-01-01"),
        ({"monthly": "at"}, "`start: <YYYY-MM-DD>` goes with"),
        ({"by": "topic", "start": "2026-01-01"}, "`start: <YYYY-MM-DD>` goes with"),
        ({"weekly": "at", "daily": "at", "start": "2026-01-05"}, "seen: daily and weekly"),
    ],
)
def test_a_declaration_that_cannot_be_right_says_what_to_write(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PartitionSpec.model_validate(fields)


@pytest.mark.parametrize(
    ("value", "message"), [("soon", "not a date"), ("2025-12-31", "before the first day"), (None, "null")]
)
def test_other_values_are_bad_rows(value: Any, message: str) -> None:
    with pytest.raises(RowError, match=message):
        partition_of(DAILY, {"at": value}, "id")
