"""Dagster's partitions are named as the rows' are."""

import datetime as dt
from typing import Any

import dagster as dg
import pytest

from distill_dagster.graph.partitions import partitions_of
from distill_dagster.prompts.partitions import partition_of
from distill_dagster.spec.prompts import PartitionSpec
from tests.graph.hosted import Declare, spec


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"daily": "at", "start": "2026-01-05"}, 57),
        ({"weekly": "at", "start": "2026-01-05"}, 9),
        ({"monthly": "at", "start": "2026-01-01"}, 3),
    ],
)
def test_every_date_up_to_today_is_in_a_partition_that_dagster_knows(
    declare: Declare, fields: dict[str, Any], count: int
) -> None:
    written = str(fields).replace("'", "")
    definition = partitions_of(declare(spec().replace("{by: topic}", written)))
    today = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
    partition = PartitionSpec.model_validate(fields)
    days = [dt.date(2026, 1, 5) + dt.timedelta(days=number) for number in range(57)]

    with dg.partition_loading_context(today):
        known = definition.get_partition_keys()

    assert {partition_of(partition, {"at": day.isoformat()}, "id") for day in days} == set(known)
    assert len(known) == count
