"""Reads rows from JSON-lines, CSV and Parquet files beside the YAML, with the place of every row."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from distill_dagster.errors import SourceError, StorageError
from distill_dagster.prompts.arrow_text import flat_batches, is_flat
from distill_dagster.prompts.rows import BATCH_ROWS, BadRow, Row, RowError, SourceBatch, plain, too_large
from distill_dagster.storage import contained

_ESCAPE_FACTOR = 6  # one character can take six bytes as \uXXXX
_BOM = b"\xef\xbb\xbf"


def find_files(pattern: str, folder: Path, project_root: Path) -> list[tuple[str, Path]]:
    """Files that match a glob, as (label for messages, path), sorted.

    Raises:
        SourceError: nothing matches, the pattern is not relative, or a match (a link, `..`) leaves the project.
    """
    try:
        matches = sorted(path for path in folder.glob(pattern) if path.is_file())
    except (NotImplementedError, ValueError) as error:
        raise SourceError(
            f"{pattern!r} is not a pattern relative to {folder} ({error}); write e.g. prompts/*.jsonl"
        ) from None
    if not matches:
        raise SourceError(f"no file matches {pattern!r} in {folder}; correct the pattern or add the files")
    root = project_root.resolve()
    files = []
    for path in matches:
        try:
            files.append((_label(path, folder), contained(root, str(path.absolute()))))
        except StorageError:
            raise SourceError(
                f"{_label(path, folder)} leads to {path.resolve()}, outside the project ({root}); copy the file into it"
            ) from None
    return files


def read_jsonl(label: str, path: Path, max_row_bytes: int) -> Iterator[Row | BadRow]:
    """Rows of one JSON-lines file; blank lines are skipped, a byte-order mark is tolerated."""
    with path.open("rb") as file:
        for number, line in _lines(file, max_row_bytes * _ESCAPE_FACTOR):
            where = f"{label}:{number}"
            if line is None:
                yield BadRow(where, too_large(max_row_bytes))
            elif line.strip():
                try:
                    yield Row(where, parse_object(line))
                except RowError as error:
                    yield BadRow(where, str(error))


def parse_object(line: bytes) -> dict[str, Any]:
    """One line as a JSON object.

    Raises:
        RowError: invalid UTF-8, not JSON (NaN and infinity are not), or not an object.
    """
    try:
        value = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(f"not valid UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise RowError(f"not valid JSON ({error.msg}, column {error.colno}); one object a line") from None
    except (ValueError, RecursionError) as error:
        raise RowError(f"not valid JSON ({error}); one object a line") from None
    if not isinstance(value, dict):
        raise RowError(f'a line must be a JSON object like {{"question": …}}, not {_kind(value)}')
    return value


def read_csv(label: str, path: Path, max_row_bytes: int) -> Iterator[Row | BadRow]:
    """Rows of one CSV file with a header line; every column is text, an empty cell is an empty text.

    Raises:
        SourceError: no header, or a header with an empty or repeated name.
    """
    csv.field_size_limit(max(csv.field_size_limit(), max_row_bytes))
    with path.open("rb") as file:
        reader = csv.reader(_csv_lines(file), strict=True)
        header = _header(label, reader)
        while True:
            where = f"{label}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(where, f"not valid CSV ({error}); check the quotes")
                continue
            if cells:
                yield _csv_row(where, header, cells)


def read_parquet(label: str, path: Path, max_row_bytes: int) -> Iterator[Row | BadRow | SourceBatch]:
    """Rows of one Parquet file.

    Raises:
        SourceError: the file is not Parquet or is torn.
    """
    try:
        with pq.ParquetFile(path) as file:
            yield from arrow_rows(label, file.iter_batches(batch_size=BATCH_ROWS), max_row_bytes)
    except pa.ArrowException as error:
        raise SourceError(f"{label}: not readable as Parquet ({error}); write the file again") from None


def arrow_rows(
    label: str, batches: Iterable[pa.RecordBatch], max_row_bytes: int
) -> Iterator[Row | BadRow | SourceBatch]:
    """Rows of Arrow record batches, numbered from 1; flat ones a batch at a time."""
    number = 0
    for batch in batches:
        if is_flat(batch):
            yield from flat_batches(label, number + 1, batch, max_row_bytes)
        else:
            for offset, record in enumerate(batch.to_pylist(), start=1):
                yield record_row(f"{label}:row {number + offset}", record)
        number += batch.num_rows


def record_row(where: str, record: Any) -> Row | BadRow:
    """A mapping as a row; anything else is a bad row."""
    try:
        values = plain(record)
    except RowError as error:
        return BadRow(where, str(error))
    if not isinstance(values, dict):
        return BadRow(where, f"a row must be a mapping of column to value, not {_kind(record)}")
    return Row(where, values)


def _label(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _lines(file: BinaryIO, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None instead of a line longer than `limit` bytes, which is skipped without being held."""
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) > limit and not line.endswith(b"\n"):
            while (rest := file.readline(limit + 1)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line


def _csv_lines(file: BinaryIO) -> Iterator[str]:
    """Lines as text; bytes that are not UTF-8 become lone surrogates, which `_csv_row` reports."""
    for number, line in enumerate(file):
        clean = line.removeprefix(_BOM) if number == 0 else line
        yield clean.decode("utf-8", errors="surrogateescape")


def _header(label: str, reader: Any) -> list[str]:
    try:
        header: list[str] = next(reader, [])
    except csv.Error as error:
        raise SourceError(f"{label}:1: not valid CSV ({error}); check the quotes") from None
    if not header or any(not name.strip() for name in header):
        raise SourceError(f"{label}:1: a CSV file needs a header line with a name for every column (seen: {header})")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise SourceError(f"{label}:1: column {repeated[0]!r} is named twice; rename one")
    return header


def _csv_row(where: str, header: list[str], cells: list[str]) -> Row | BadRow:
    if len(cells) != len(header):
        return BadRow(where, f"{len(cells)} cells under {len(header)} columns; quote cells that hold commas")
    if any("\udc80" <= char <= "\udcff" for cell in cells if not cell.isascii() for char in cell):
        return BadRow(where, "not valid UTF-8; save the file as UTF-8")
    return Row(where, dict(zip(header, cells, strict=True)))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write null")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _kind(value: Any) -> str:
    names = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")
