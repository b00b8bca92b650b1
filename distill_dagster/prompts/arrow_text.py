"""Rows of Arrow tables as canonical JSON, a column at a time; equal, byte for byte, to what `rows.row_text` gives."""

import json
import math
from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from distill_dagster.prompts.rows import BATCH_CHARS, BATCH_ROWS, BATCH_SCHEMA, BadRow, SourceBatch, too_large_row

_NAMED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_ESCAPES = {chr(code): f"\\u{code:04x}" for code in range(0x20)} | _NAMED
_ESCAPED = r'[\x00-\x1f\\"]'


def is_flat(batch: pa.RecordBatch) -> bool:
    """Whether all columns are of kinds whose JSON can be made without looking at each value, and of usual size."""
    names = batch.schema.names
    return (
        len(set(names)) == len(names)
        and all(_is_plain(field.type) for field in batch.schema)
        and batch.nbytes <= BATCH_CHARS * max(1, batch.num_rows // BATCH_ROWS)
        and all(_is_finite(column) for column in batch.columns if pa.types.is_floating(column.type))
    )


def flat_batches(label: str, first: int, batch: pa.RecordBatch, max_row_bytes: int) -> Iterator[SourceBatch]:
    """The rows of a flat batch.

    Args:
        label: the source's name, for the rows' places.
        first: number of the batch's first row.
        batch: for which `is_flat` holds.
        max_row_bytes: a longer row is a bad one.
    """
    for start in range(0, batch.num_rows, BATCH_ROWS):
        part = batch.slice(start, BATCH_ROWS)
        yield _source_batch(label, first + start, part, max_row_bytes)


def _source_batch(label: str, first: int, batch: pa.RecordBatch, max_row_bytes: int) -> SourceBatch:
    columns = pl.DataFrame(pl.from_arrow(batch))
    number = pl.int_range(first, first + columns.height, eager=True).cast(pl.String)
    frame = columns.select(row=_row_text(columns)).with_columns(where=pl.concat_str(pl.lit(f"{label}:row "), number))
    size = pl.col("row").str.len_bytes()
    long = frame.filter(size > max_row_bytes).select("where", bytes=size)
    bad = tuple(BadRow(where, too_large_row(bytes_, max_row_bytes)) for where, bytes_ in long.iter_rows())
    kept = frame.filter(size <= max_row_bytes) if bad else frame
    return SourceBatch(kept.select(list(BATCH_SCHEMA)), frozenset(columns.columns), bad)


def _row_text(columns: pl.DataFrame) -> pl.Expr:
    """`{"a":1,"b":"x"}` of each row: names in order of their characters, null columns left out."""
    names = sorted(columns.columns)
    if not names:
        return pl.lit("{}")
    members = [_member(columns[name]) for name in names]
    if any(value.null_count() for _, value, _ in members):
        texts = [pl.concat_str(pl.lit(start), value, pl.lit(end)) for start, value, end in members]
        return pl.concat_str(pl.lit("{"), pl.concat_str(texts, separator=",", ignore_nulls=True), pl.lit("}"))
    parts: list[pl.Expr | pl.Series] = []
    before = "{"
    for start, value, end in members:
        parts += [pl.lit(before + start), value]
        before = f"{end},"
    return pl.concat_str(*parts, pl.lit(f"{members[-1][2]}}}"))


def _member(column: pl.Series) -> tuple[str, pl.Series, str]:
    """`"name":` and what opens the value, the value's text (null where it is null), and what closes it."""
    start = f"{json.dumps(column.name, ensure_ascii=False)}:"
    kind = column.dtype
    if kind.is_integer() or kind == pl.Null:
        return start, column.cast(pl.String), ""
    if kind == pl.Boolean:
        return start, column.replace_strict({True: "true", False: "false"}, return_dtype=pl.String), ""
    if kind.is_float():
        texts = [None if value is None or math.isnan(value) else repr(value) for value in column.to_list()]
        return start, pl.Series(column.name, texts, dtype=pl.String), ""
    text = column.cast(pl.String)
    if text.str.contains(_ESCAPED).any():
        text = text.str.replace_many(list(_ESCAPES), list(_ESCAPES.values()))
    return f'{start}"', text, '"'


def _is_plain(kind: pa.DataType) -> bool:
    types = pa.types
    return any(
        test(kind)
        for test in (
            types.is_string,
            types.is_large_string,
            types.is_string_view,
            types.is_integer,
            types.is_boolean,
            types.is_float32,
            types.is_float64,
            types.is_null,
        )
    )


def _is_finite(column: pa.Array) -> bool:
    """Whether no value is infinite; NaN counts as null."""
    return not pl.Series(pl.from_arrow(column)).is_infinite().any()
