"""`distill sql`: one SELECT over everything that is stored."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_dagster.catalog.catalog import Catalog
from distill_dagster.errors import CatalogError
from distill_dagster.evaluation.formatting import count
from distill_dagster.storage import write_file

FORMAT = 1
SHOWN_ROWS = 100
BATCH_ROWS = 8_192
_NESTED = ("LIST", "STRUCT", "MAP", "ARRAY", "UNION")
_FLOATS = ("FLOAT", "DOUBLE")
SUFFIXES = (".parquet", ".csv")


def write_result(catalog: Catalog, query: str, out: Path, parameters: Sequence[Any] = ()) -> int:
    """Writes all rows of a query to a Parquet or CSV file, batch by batch; in CSV, nested values are JSON.

    Returns:
        How many rows.

    Raises:
        CatalogError: DuckDB cannot run it, or the file has another suffix.
    """
    if out.suffix not in SUFFIXES:
        raise CatalogError(f"{out}: rows are written as {' or '.join(SUFFIXES)}; write another suffix")
    relation = catalog.select(query, parameters)
    if out.suffix == ".csv":
        relation = relation.project(", ".join(map(_flat, relation.columns, relation.types)))
    rows = 0

    def write(aside: Path) -> None:
        nonlocal rows
        reader = relation.to_arrow_reader(BATCH_ROWS)
        make = pa.csv.CSVWriter if out.suffix == ".csv" else pq.ParquetWriter
        with make(aside, reader.schema) as writer:
            for batch in reader:
                rows += batch.num_rows
                writer.write_batch(batch)

    try:
        write_file(out.absolute(), write)
    except (duckdb.Error, pa.ArrowException) as error:
        raise CatalogError(str(error).strip()) from None
    return rows


def print_result(catalog: Catalog, query: str, *, as_json: bool) -> None:
    """Prints a table of the first rows, or all rows as JSON.

    The JSON is {"format": 1, "columns": [{"name", "type"}], "rows": [{column: value}]}, with DuckDB's names of types;
    dates and times are text, infinities null.

    Raises:
        CatalogError: DuckDB cannot run it.
    """
    console = Console(highlight=False)
    relation = catalog.select(query)
    if as_json:
        for piece in _json(relation):
            console.out(piece, end="", highlight=False)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in relation.columns:
        table.add_column(Text(name))
    rows = _read(relation.limit(SHOWN_ROWS + 1))
    for row in rows[:SHOWN_ROWS]:
        table.add_row(*(Text("–" if value is None else str(value)) for value in row))
    console.print(table)
    if len(rows) > SHOWN_ROWS:
        console.print(Text(f"\nthe first {count(SHOWN_ROWS)} rows; --out FILE.parquet or FILE.csv writes all of them"))


def _json(relation: Any) -> Iterator[str]:
    columns = [{"name": name, "type": str(kind)} for name, kind in zip(relation.columns, relation.types, strict=True)]
    lines = _lines(relation)
    first = next(lines, None)  # before anything is printed: most queries that fail do so here
    yield f'{{\n  "format": {FORMAT},\n  "columns": {json.dumps(columns, ensure_ascii=False)},\n  "rows": ['
    if first is not None:
        yield f"\n    {first}"
    for line in lines:
        yield f",\n    {line}"
    yield "\n  ]\n}\n"


def _lines(relation: Any) -> Iterator[str]:
    """Each row as a JSON object."""
    try:
        finite = relation.project(", ".join(map(_finite, relation.columns, relation.types)))
        for batch in finite.query("one", "SELECT to_json(one) AS line FROM one").to_arrow_reader(BATCH_ROWS):
            yield from batch.column("line").to_pylist()
    except (duckdb.Error, pa.ArrowException) as error:
        raise CatalogError(str(error).strip()) from None


def _read(relation: Any) -> list[tuple[Any, ...]]:
    try:
        rows: list[tuple[Any, ...]] = relation.fetchall()
    except duckdb.Error as error:
        raise CatalogError(str(error).strip()) from None
    return rows


def _finite(name: str, kind: Any) -> str:
    """A column as JSON can hold it: infinities and NaN are null."""
    quoted = _quoted(name)
    is_float = str(kind.id).upper() in _FLOATS
    return f"CASE WHEN isfinite({quoted}) THEN {quoted} END AS {quoted}" if is_float else quoted


def _flat(name: str, kind: Any) -> str:
    """A column as CSV can hold it."""
    quoted = _quoted(name)
    return f"to_json({quoted})::VARCHAR AS {quoted}" if str(kind.id).upper() in _NESTED else quoted


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
