"""A version of a partition's captured logits: an index into shards, one row a completion."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.datatypes import DataType, DataTypeClass

from distill_dagster.errors import LogitsError
from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.lineage.hashing import VERSION_HEX_CHARS, digest, frame_version
from distill_dagster.logits.shards import capture_metadata, is_whole, read_capture_metadata
from distill_dagster.storage import write_file

INDEX_FOLDER = "teacher_logits"
SIZES_KEY = b"distill_dagster.sizes"
INDEX_SCHEMA: dict[str, DataType | DataTypeClass] = {
    "prompt_id": pl.String,
    "sample": pl.Int32,
    "split": pl.String,
    "request_key": pl.String,
    "ids_hash": pl.String,
    "tokens": pl.Int32,
    "has_hidden": pl.Boolean,
    "shard": pl.String,
    "row": pl.Int32,
}
VERSION_COLUMNS = ("prompt_id", "sample", "split", "request_key", "ids_hash", "tokens", "has_hidden")


@dataclass(frozen=True)
class Index:
    """Where a partition's sequences lie.

    Attributes:
        identity: what they are captures of.
        vocabulary: the teacher's number of token ids.
        frame: INDEX columns, by prompt_id and sample; `shard` is a file's name in the identity's folder.
        sizes: bytes of each shard that `frame` refers to.
    """

    identity: CaptureIdentity
    vocabulary: int
    frame: pl.DataFrame
    sizes: Mapping[str, int]

    @property
    def version(self) -> str:
        """Content hash: which completions are captured, and of what; 32 hex characters.

        Neither the places nor the numbers are part of it. Where a sequence lies is a matter of when it was captured.
        Its floats follow from its key and the identity, up to rounding that depends on what shared a batch with it.
        """
        rows = frame_version(_ordered(self.frame), VERSION_COLUMNS)
        return digest({"capture": self.identity.digest, "rows": rows})[:VERSION_HEX_CHARS]


def index_path(folder: Path, version: str) -> Path:
    """The file of a version in a partition's folder."""
    return folder / f"{version}.parquet"


def write_index(folder: Path, index: Index, shard_folder: Path) -> str:
    """Publishes an index under the version of its content.

    A file of the same version stays as it is, since it says the same, unless it cannot be read or a shard that it
    refers to is gone.

    Args:
        folder: the partition's.
        index: rows in any order; columns beside INDEX's are left out.
        shard_folder: where the shards lie.

    Returns:
        The version.
    """
    version = index.version
    path = index_path(folder, version)
    if not _serves(path, shard_folder):
        replace_index(path, index)
    return version


def replace_index(path: Path, index: Index) -> None:
    """Writes an index over what is at `path`, atomically."""
    frame = _ordered(index.frame)
    names = set(frame["shard"])
    sizes = {name: size for name, size in sorted(index.sizes.items()) if name in names}
    metadata = {**capture_metadata(index.identity, index.vocabulary), SIZES_KEY: json.dumps(sizes).encode()}
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).replace_schema_metadata(metadata)
    write_file(path, lambda aside: pq.write_table(table, aside, compression="zstd", write_page_checksum=True))


def read_index(path: Path) -> Index:
    """An index from disk.

    Raises:
        LogitsError: it is missing, damaged, or of another layout.
    """
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        metadata = table.schema.metadata or {}
        sizes: dict[str, int] = json.loads(metadata.get(SIZES_KEY, b"{}"))
        frame = _ordered(pl.DataFrame(pl.from_arrow(table)))
    except FileNotFoundError:
        raise LogitsError(f"{path}: missing; materialise teacher_logits again") from None
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise LogitsError(
            f"{path}: torn or damaged ({reason}); remove it and materialise teacher_logits again"
        ) from None
    identity, vocabulary = read_capture_metadata(path, metadata)
    return Index(identity, vocabulary, frame, sizes)


def missing_rows(index: Index, shard_folder: Path) -> pl.DataFrame:
    """Rows of an index whose shard is gone or has another size than when it was written."""
    whole = [name for name, size in index.sizes.items() if is_whole(shard_folder / name, size)]
    return index.frame.filter(~pl.col("shard").is_in(whole))


def _ordered(frame: pl.DataFrame) -> pl.DataFrame:
    rows = frame.select(pl.col(name).cast(kind) for name, kind in INDEX_SCHEMA.items())
    return rows.sort("prompt_id", "sample")


def _serves(path: Path, shard_folder: Path) -> bool:
    """Whether the index at `path` can be read and all its shards are there."""
    try:
        return missing_rows(read_index(path), shard_folder).is_empty()
    except LogitsError:
        return False
