"""Content hashes that hold across processes, machines and library versions: JSON values, table rows, whole tables."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import polars as pl
import polars_hash as plh

VERSION_HEX_CHARS = 32
_ROW_ENCODING = 1  # the row encoding of polars-hash: a published, frozen format
_SLICE_ROWS = 65_536
_CONTAINERS = (dict, list, tuple)
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, characters as they are.

    There is no fallback for unknown types: a hash over somebody's `repr` would not be stable.

    Raises:
        TypeError: something in the value is not JSON (a date, a set, an object), or a key is not text.
        ValueError: NaN, infinity, or text that is not valid Unicode (a lone surrogate).
    """
    _check_keys(value)
    text = _ENCODER.encode(value)
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"not valid Unicode: lone surrogate U+{ord(text[error.start]):04X}") from None
    return text


def sha256_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, as 64 hex characters."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, as 64 hex characters; raises as `canonical_json` does."""
    return sha256_text(canonical_json(value))


def row_hashes(frame: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """SHA-256 of each row over the named columns, as 64 hex characters.

    The columns' names are hashed with their values, sorted, so their order does not matter. Null differs from an
    empty text, and what stands in one column never runs into the next. Integers hash by value, whatever their width;
    lists and structs hash by their members.

    Args:
        frame: rows in any order.
        columns: at least one column of `frame`; repeated names count once.

    Returns:
        A text series named `row_hash`, one hash a row, in the frame's order.
    """
    names = sorted(set(columns))
    if not names:
        raise ValueError("row_hashes needs at least one column")
    if frame.is_empty():
        return pl.Series("row_hash", [], dtype=pl.String)
    values = [frame[name].alias(f"column_{index}") for index, name in enumerate(names)]
    marked = pl.DataFrame(values).with_columns(pl.lit(canonical_json(names)).alias("names"))
    rows = plh.hash_rows(pl.all(), version=_ROW_ENCODING)
    return marked.select(rows.chash.sha2_256().alias("row_hash"))["row_hash"]


class VersionHash:
    """Content hash of a table's logical rows, part by part; how it is cut into parts makes no difference."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._total = hashlib.sha256(canonical_json(sorted(set(columns))).encode("utf-8"))

    def add(self, frame: pl.DataFrame) -> None:
        """The next rows."""
        for part in frame.iter_slices(_SLICE_ROWS):
            if part.height:
                self._total.update(str(row_hashes(part, self._columns).str.join("").item()).encode("ascii"))

    @property
    def version(self) -> str:
        """32 hex characters."""
        return self._total.hexdigest()[:VERSION_HEX_CHARS]


def frame_version(frame: pl.DataFrame, columns: Sequence[str]) -> str:
    """Content hash of a table's logical rows, in the frame's order: 32 hex characters.

    The same rows give the same version however they are stored, chunked or compressed.
    """
    total = VersionHash(columns)
    total.add(frame)
    return total.version


def _check_keys(value: Any) -> None:
    """JSON would turn a key 1 into "1" and so make two different values hash alike."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"keys must be text, not {type(key).__name__}: {key!r}")
            if isinstance(item, _CONTAINERS):
                _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, _CONTAINERS):
                _check_keys(item)
