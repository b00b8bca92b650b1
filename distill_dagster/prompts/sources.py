"""Reads the rows of a declared prompt source, batch by batch, each with its place for messages."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from distill_dagster.errors import SourceError
from distill_dagster.prompts.rows import BATCH_ROWS, BadRow, Row, SourceBatch, to_batches
from distill_dagster.prompts.source_files import arrow_rows, find_files, read_csv, read_jsonl, read_parquet, record_row
from distill_dagster.prompts.source_python import call_source
from distill_dagster.spec.prompts import PromptsSpec


def read_source(spec: PromptsSpec, folder: Path, project_root: Path) -> Iterator[SourceBatch]:
    """The rows of `spec.source`.

    Values keep their JSON type: JSON-lines and Python rows as written, CSV cells as text, table columns by their type,
    with dates and times as ISO text and decimals as text.

    Args:
        spec: the `prompts:` block.
        folder: the YAML file's folder, where relative paths and modules start.
        project_root: files outside it are refused.

    Raises:
        SourceError: the source as a whole cannot be read. A single row that cannot is a `BadRow` of its batch.
    """
    yield from to_batches(_rows(spec, folder, project_root), spec.max_row_bytes)


def _rows(spec: PromptsSpec, folder: Path, project_root: Path) -> Iterator[Row | BadRow | SourceBatch]:
    kind, value = spec.source.kind, spec.source.value
    if kind in {"jsonl", "csv", "parquet"}:
        for label, path in find_files(value, folder, project_root):
            yield from _file_rows(kind, label, path, spec.max_row_bytes)
    elif kind == "sql":
        yield from _sql_rows(value, folder, spec.max_row_bytes)
    elif kind == "python":
        yield from _result_rows(value, call_source(value, folder), spec.max_row_bytes)
    else:
        yield from _huggingface_rows(value)


def _file_rows(kind: str, label: str, path: Path, max_row_bytes: int) -> Iterator[Row | BadRow | SourceBatch]:
    try:
        if kind == "jsonl":
            yield from read_jsonl(label, path, max_row_bytes)
        elif kind == "csv":
            yield from read_csv(label, path, max_row_bytes)
        else:
            yield from read_parquet(label, path, max_row_bytes)
    except OSError as error:
        raise SourceError(f"{label}: cannot be read ({error.strerror or error})") from None


def _sql_rows(query: str, folder: Path, max_row_bytes: int) -> Iterator[Row | BadRow | SourceBatch]:
    with _queried(query, folder, "prompts.source.sql") as relation:
        yield from arrow_rows("sql", relation.to_arrow_reader(BATCH_ROWS), max_row_bytes)


def sql_row(query: str, folder: Path, key: str) -> list[str | None]:
    """The one row of a DuckDB query, each value as text; relative paths in it start at `folder`.

    Raises:
        SourceError: the query fails, or has no row or several; named by the YAML `key` that it is written under.
    """
    with _queried(query, folder, key) as relation:
        rows = relation.limit(2).fetchall()
    if len(rows) != 1:
        found = "no row" if not rows else "several rows"
        raise SourceError(f"{key}: gave {found}; write a query of one, e.g. select max(updated_at), count(*)")
    return [None if value is None else str(value) for value in rows[0]]


@contextmanager
def _queried(query: str, folder: Path, key: str) -> Iterator[duckdb.DuckDBPyRelation]:
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET file_search_path = '{_quoted(folder)}'")
        try:
            yield connection.sql(query)
        except (duckdb.Error, pa.ArrowException) as error:
            raise SourceError(f"{key}: {error}") from None


def _quoted(folder: Path) -> str:
    return str(folder.absolute()).replace("'", "''")


def _result_rows(label: str, result: Any, max_row_bytes: int) -> Iterator[Row | BadRow | SourceBatch]:
    """What a Python source may return: Arrow data, a Polars frame, or an iterable of mappings."""
    if isinstance(result, pl.LazyFrame):
        result = result.collect()
    if hasattr(result, "__arrow_c_stream__"):
        yield from arrow_rows(label, pa.RecordBatchReader.from_stream(result), max_row_bytes)
    elif isinstance(result, Iterable) and not isinstance(result, (str, bytes, Mapping)):
        for number, record in enumerate(result, start=1):
            yield record_row(f"{label}:row {number}", record)
    else:
        raise SourceError(
            f"{label} returned {type(result).__name__}; "
            "return an iterable of mappings, a Polars frame or an Arrow table"
        )


def _huggingface_rows(value: str) -> Iterator[Row | BadRow]:
    match = re.fullmatch(r"(?P<name>[^:\s]+)(?::(?P<split>\S+))?", value)
    if match is None:
        raise SourceError(f"prompts.source.huggingface: write owner/dataset or owner/dataset:split (seen: {value!r})")
    try:
        from datasets import load_dataset
    except ImportError:
        raise SourceError(
            "prompts.source.huggingface needs the `datasets` package; pip install 'distill-dagster[huggingface]'"
        ) from None
    name, split = match["name"], match["split"] or "train"
    try:
        for number, record in enumerate(load_dataset(name, split=split, streaming=True), start=1):
            yield record_row(f"{name}:{split}:row {number}", record)
    except (OSError, ValueError, RuntimeError) as error:
        # The library raises these for an absent data set, an unknown split and a lost connection alike.
        raise SourceError(f"prompts.source.huggingface: {value}: {type(error).__name__}: {error}") from None
