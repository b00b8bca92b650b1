"""Rows of flat Arrow tables: the same text, places and errors as one row at a time."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_dagster.prompts.arrow_text import is_flat
from distill_dagster.prompts.rows import SourceBatch, to_batches
from distill_dagster.prompts.source_files import arrow_rows, record_row

VALUES = {
    "text": (pa.string(), st.text(st.characters(exclude_categories=["Cs"]))),
    "Text": (pa.large_string(), st.sampled_from(['"', "\\", "\n\t\r\b\f", "\x00\x1f\x7f", "\u2028é😀", ""])),
    "ü": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "small": (pa.uint8(), st.integers(0, 255)),
    "flag": (pa.bool_(), st.booleans()),
    "number": (pa.float64(), st.floats(allow_infinity=False)),
    "single": (pa.float32(), st.floats(width=32, allow_infinity=False)),
}
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | values for name, (_, values) in VALUES.items()}), max_size=20)


def batch_of(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=pa.schema({name: kind for name, (kind, _) in VALUES.items()}))


def by_row(batch: pa.RecordBatch, max_row_bytes: int) -> list[SourceBatch]:
    records = (record_row(f"file:row {number}", row) for number, row in enumerate(batch.to_pylist(), start=1))
    return list(to_batches(records, max_row_bytes))


def by_column(batch: pa.RecordBatch, max_row_bytes: int) -> list[SourceBatch]:
    return list(to_batches(arrow_rows("file", [batch], max_row_bytes), max_row_bytes))


@given(ROWS, st.sampled_from([40, 10_000]))
def test_columns_and_rows_give_the_same(rows: list[dict[str, Any]], max_row_bytes: int) -> None:
    batch = batch_of(rows)

    assert is_flat(batch)
    fast, slow = by_column(batch, max_row_bytes), by_row(batch, max_row_bytes)

    assert [one.frame.rows() for one in fast] == [one.frame.rows() for one in slow]
    assert [(one.columns, one.bad) for one in fast] == [(one.columns, one.bad) for one in slow]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array([float("inf")]),
        pa.array([0], pa.timestamp("us")),
        pa.array(["x"]).dictionary_encode(),
    ],
)
def test_other_values_are_read_row_by_row(column: pa.Array) -> None:
    batch = pa.RecordBatch.from_arrays([column], ["value"])

    assert not is_flat(batch)
    assert [(one.frame.rows(), one.bad) for one in by_column(batch, 1_000)] == [
        (one.frame.rows(), one.bad) for one in by_row(batch, 1_000)
    ]


def test_rows_are_numbered_through_all_batches() -> None:
    batches = [pa.RecordBatch.from_pydict({"q": ["a", "b"]}), pa.RecordBatch.from_pydict({"q": [["c"]]})]

    found = list(to_batches(arrow_rows("file", [*batches, batches[0]], 1_000), 1_000))

    assert [place for one in found for place in one.frame["where"]] == [f"file:row {number}" for number in range(1, 6)]
