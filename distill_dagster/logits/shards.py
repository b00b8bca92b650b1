"""Shards: append-only Parquet files of captured sequences, shared by all partitions of a distillation."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from distill_dagster.errors import LogitsError
from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.logits.packing import KEY_COLUMNS, columns, pack, size_bytes, unpack
from distill_dagster.logits.sparse import Sequence
from distill_dagster.storage import write_file

SHARDS_FOLDER = "teacher_logit_shards"
CAPTURE_KEY = b"distill_dagster.capture"
VOCABULARY_KEY = b"distill_dagster.vocabulary"
GROUP_SEQUENCES = 64
GROUP_BYTES = 8 << 20
_MAGIC = b"PAR1"
_WORDS = {
    "format": "file format",
    "template": "chat template",
    "dtype": "precision",
    "draws": "number of draws",
    "draw_sets": "number of draw sets",
}


@dataclass(frozen=True)
class ShardInfo:
    """What a shard says of itself.

    Attributes:
        identity: what its sequences are captures of.
        vocabulary: the teacher's number of token ids.
        sequences: how many it holds.
    """

    identity: CaptureIdentity
    vocabulary: int
    sequences: int


def shards_folder(distillation: Path, identity: CaptureIdentity) -> Path:
    """Where the shards of one capture identity lie in a distillation's folder."""
    return distillation / SHARDS_FOLDER / identity.digest[:16]


def write_shard(path: Path, identity: CaptureIdentity, vocabulary: int, sequences: Iterable[Sequence]) -> None:
    """Writes a shard whole or not at all, holding one row group of sequences in memory.

    Args:
        path: the new shard; its folder is made.
        identity: what the sequences are captures of.
        vocabulary: the teacher's number of token ids; all ids are below it.
        sequences: in the order that gives them their row numbers.

    Raises:
        LogitsError: a value is not a number.
        ValueError: a sequence that does not fit the identity.
    """
    plain = columns(identity, vocabulary)
    schema = plain.with_metadata(capture_metadata(identity, vocabulary))

    def write(aside: Path) -> None:
        with pq.ParquetWriter(aside, schema, **_writing(plain)) as parquet:
            for group in _groups(sequences):
                parquet.write_table(pack(group, identity, vocabulary))

    write_file(path, write)


def read_info(path: Path) -> ShardInfo:
    """What a shard holds.

    Raises:
        LogitsError: it is missing, damaged, or of another layout.
    """
    with _reading(path), _opened(path) as file:
        metadata = file.schema_arrow.metadata or {}
        return ShardInfo(*read_capture_metadata(path, metadata), sequences=file.metadata.num_rows)


def kept_hidden_bytes(path: Path) -> int:
    """Bytes on disk of the hidden states that a shard keeps.

    Raises:
        LogitsError: it is missing or damaged.
    """
    with _reading(path), _opened(path) as file:
        physical = next(n for n in range(file.metadata.num_columns) if file.schema.column(n).path == "hidden")
        groups = range(file.metadata.num_row_groups)
        return sum(file.metadata.row_group(group).column(physical).total_compressed_size for group in groups)


def read_keys(path: Path) -> pl.DataFrame:
    """Which sequences a shard holds: request_key, ids_hash, tokens (int32), has_hidden, row (int32).

    Raises:
        LogitsError: it is missing or damaged.
    """
    with _reading(path), _opened(path) as file:
        keys = pl.DataFrame(pl.from_arrow(file.read(columns=list(KEY_COLUMNS))))
    return keys.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias("row"))


def read_sequences(path: Path, expected: CaptureIdentity, rows: list[int] | None = None) -> Iterator[Sequence]:
    """Sequences of a shard, one row group in memory at a time.

    Args:
        path: the shard.
        expected: what it must be a capture of.
        rows: ascending row numbers; all if None.

    Raises:
        LogitsError: the shard is missing, damaged, of another teacher, or has no such row.
        ValueError: `rows` do not ascend.
    """
    info = _checked(path, expected)
    if rows is not None and any(second <= first for first, second in pairwise(rows)):
        raise ValueError("rows must ascend")
    if rows and (rows[0] < 0 or rows[-1] >= info.sequences):
        raise LogitsError(f"{path}: row {rows[-1]} is wanted of {info.sequences}; materialise teacher_logits again")
    with _reading(path):
        file = _opened(path)
    with file:
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            inside = _inside(rows, start, end)
            if inside:
                with _reading(path):
                    sequences = list(unpack(file.read_row_group(group), expected, info.vocabulary, inside))
                yield from sequences
            start = end


def check_identity(path: Path, expected: CaptureIdentity) -> None:
    """Makes sure that a shard is a capture of what is expected.

    Raises:
        LogitsError: it is missing, damaged, or of something else; each difference is named.
    """
    _checked(path, expected)


def is_whole(path: Path, size: int) -> bool:
    """Whether a shard has the size (bytes) it had when written, and a Parquet file's end."""
    try:
        if path.stat().st_size != size or size < len(_MAGIC):
            return False
        with path.open("rb") as file:
            file.seek(-len(_MAGIC), 2)
            return file.read() == _MAGIC
    except FileNotFoundError:
        return False


def capture_metadata(identity: CaptureIdentity, vocabulary: int) -> dict[bytes, bytes]:
    """What shards and indexes alike say in their Parquet metadata."""
    return {CAPTURE_KEY: identity.model_dump_json().encode(), VOCABULARY_KEY: str(vocabulary).encode()}


def read_capture_metadata(path: Path, metadata: dict[bytes, bytes]) -> tuple[CaptureIdentity, int]:
    """The inverse of `capture_metadata`.

    Raises:
        LogitsError: not there, or of a layout that this version does not know.
    """
    try:
        return CaptureIdentity.model_validate_json(metadata[CAPTURE_KEY]), int(metadata[VOCABULARY_KEY])
    except (KeyError, ValueError):
        raise LogitsError(
            f"{path}: not captured logits of this version of distill-dagster; "
            "remove the file and materialise teacher_logits again"
        ) from None


def _checked(path: Path, expected: CaptureIdentity) -> ShardInfo:
    info = read_info(path)
    there, wanted = info.identity.model_dump(mode="json"), expected.model_dump(mode="json")
    differences = [
        f"another {_WORDS.get(name, name)} ({_short(there[name])} there, {_short(wanted[name])} expected)"
        for name in wanted
        if there[name] != wanted[name]
    ]
    if differences:
        raise LogitsError(f"{path}: captured with {', '.join(differences)}; materialise teacher_logits again")
    return info


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 40 else text


def _writing(schema: pa.Schema) -> dict[str, Any]:
    """Options of the Parquet writer. Splitting the bytes of numbers by place lets zstd see the ones that repeat."""
    lists = {f"{field.name}.list.element": "BYTE_STREAM_SPLIT" for field in schema if pa.types.is_list(field.type)}
    return {
        "compression": "zstd",
        "compression_level": 9,
        "use_dictionary": False,
        "column_encoding": lists,
        "write_statistics": False,
        "write_page_checksum": True,
    }


def _opened(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, page_checksum_verification=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what a missing or damaged file causes into an error that names it."""
    try:
        yield
    except FileNotFoundError:
        raise LogitsError(f"{path}: missing; the next run of teacher_logits captures its sequences again") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise LogitsError(
            f"{path}: torn or damaged ({reason}); remove it, and its sequences are captured again by the next run of "
            "teacher_logits"
        ) from None


def _groups(sequences: Iterable[Sequence]) -> Iterator[list[Sequence]]:
    """Row groups, small enough that reading part of a shard is cheap."""
    group: list[Sequence] = []
    size = 0
    for sequence in sequences:
        group.append(sequence)
        size += size_bytes(sequence)
        if len(group) == GROUP_SEQUENCES or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _inside(rows: list[int] | None, start: int, end: int) -> list[int]:
    """Those of `rows` in a row group, counted from its start."""
    if rows is None:
        return list(range(end - start))
    first, last = np.searchsorted(rows, [start, end])
    return [row - start for row in rows[first:last]]
