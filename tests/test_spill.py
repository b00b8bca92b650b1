"""Rows put aside come back by name, in their order, whether they went to disk or not."""

import tempfile
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.errors import StorageError
from distill_dagster.spill import Spill

SCHEMA = {"text": pl.String, "ids": pl.List(pl.Int32)}


def rows(*numbers: int) -> pl.DataFrame:
    return pl.DataFrame({"text": [f"row {n} 🐧" for n in numbers], "ids": [[n] * (n % 3) for n in numbers]}, SCHEMA)


@pytest.mark.parametrize("most_bytes", [0, 100, 10**6])
def test_rows_come_back_by_name_in_their_order(most_bytes: int) -> None:
    spill = Spill(SCHEMA, most_bytes)

    spill.add({"a": rows(1, 2), "b": rows(3)})
    spill.add({"a": rows(4), "c": rows()})
    spill.add({"b": rows(5, 6), "a": rows(7)})

    assert spill.of("a").equals(rows(1, 2, 4, 7))
    assert spill.of("b").equals(rows(3, 5, 6))
    assert spill.of("c").schema == spill.of("unknown").schema == pl.Schema(SCHEMA)


def test_columns_are_those_of_the_schema_in_its_order() -> None:
    spill = Spill(SCHEMA)

    spill.add({"a": rows(1).select("ids", "text", other=1)})

    assert spill.of("a").equals(rows(1))


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))

    with pytest.raises(StorageError, match=r"gone: rows cannot be put aside there .* set TMPDIR"):
        Spill(SCHEMA, most_bytes=0).add({"a": rows(1)})
