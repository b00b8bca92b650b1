"""Hashes that must not change between machines, and must differ wherever content does."""

import datetime as dt
import hashlib
import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_dagster.lineage.hashing import canonical_json, digest, frame_version, row_hashes, sha256_text

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
cells = st.none() | texts
rows = st.lists(st.tuples(cells, cells, st.none() | st.integers(-(2**63), 2**63 - 1)), max_size=12)


def frame_of(records: list[tuple[str | None, str | None, int | None]]) -> pl.DataFrame:
    return pl.DataFrame(records, schema={"a": pl.String, "b": pl.String, "n": pl.Int64}, orient="row")


def hashes(**columns: object) -> list[str]:
    return row_hashes(pl.DataFrame(columns), list(columns)).to_list()


def test_canonical_json_is_sorted_compact_and_keeps_characters() -> None:
    assert canonical_json({"b": [1, None], "a": "é漢🙂"}) == '{"a":"é漢🙂","b":[1,null]}'


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}, "\ud800", {"\udfff": 1}])
def test_canonical_json_refuses_what_is_not_json_text(value: object) -> None:
    with pytest.raises(ValueError, match=r"Out of range|lone surrogate"):
        canonical_json(value)


@pytest.mark.parametrize("value", [{1: "a"}, [{"a": {None: 1}}], {"a": dt.date(2026, 1, 1)}, {"a": {1}}])
def test_canonical_json_has_no_fallback_for_other_types(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


def test_known_hashes_stay() -> None:
    """These values are in every store on disk: a change here makes every artifact stale."""
    assert sha256_text("漢") == hashlib.sha256("漢".encode()).hexdigest()
    assert digest({"b": 1, "a": "é"}) == hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()
    assert hashes(a=["x", None], n=[1, 2]) == [
        "a84570bf448243d246bfb0bab7d68335e2dba802b7093ff53020532ab53f4fb4",
        "b46ae28631757f5a07179ed108c783edf2bfb631e44c128c06f7daef303b98c2",
    ]
    version = frame_version(frame_of([("x", "", 1), (None, "é", None)]), ["a", "b", "n"])
    assert version == "e2cf215c948dee5a880d06ea91fc80bf"


@given(rows)
def test_row_hashes_are_equal_exactly_where_rows_are(records: list[tuple[str | None, str | None, int | None]]) -> None:
    result = row_hashes(frame_of(records), ["a", "b", "n"])

    assert len(result) == len(records)
    assert result.n_unique() == len(set(records))


@given(rows)
def test_row_hashes_ignore_the_order_of_columns(records: list[tuple[str | None, str | None, int | None]]) -> None:
    frame = frame_of(records)

    assert row_hashes(frame, ["a", "b", "n"]).equals(row_hashes(frame.select("n", "b", "a"), ["n", "a", "b"]))


def test_row_hashes_know_which_column_a_value_is_in() -> None:
    assert hashes(a=["x"], b=["y"]) != hashes(a=["y"], b=["x"])
    assert hashes(a=["x"]) != hashes(b=["x"])
    assert hashes(a=["ab"], b=["c"]) != hashes(a=["a"], b=["bc"])


def test_null_empty_and_typed_values_differ() -> None:
    different = [
        hashes(a=[value])[0] for value in (None, "", "1", 1, True, 1.5, [], [1], {"x": 1}, dt.date(2026, 1, 1))
    ]

    assert len(set(different)) == len(different)


def test_lists_hash_by_their_members() -> None:
    ids = pl.Series("a", [[1, 2], [12], [], None, [1, 2]], dtype=pl.List(pl.Int32))

    result = row_hashes(ids.to_frame(), ["a"])

    assert result.n_unique() == 4
    assert result[0] == result[4]
    assert result.equals(row_hashes(ids.cast(pl.List(pl.Int64)).to_frame(), ["a"]))


def test_frame_version_hangs_on_rows_and_order_only() -> None:
    frame = pl.DataFrame({"a": [f"text {i}" for i in range(1000)], "n": range(1000)})
    version = frame_version(frame, ["a", "n"])

    assert frame_version(pl.concat([frame[:7], frame[7:]], rechunk=False), ["n", "a"]) == version
    assert frame_version(frame.with_columns(other=1), ["a", "n"]) == version
    assert frame_version(frame.reverse(), ["a", "n"]) != version
    assert frame_version(frame.head(999), ["a", "n"]) != version
    assert frame_version(frame.clear(), ["a", "n"]) != frame_version(frame.clear(), ["a"])
