"""The requests of a distillation's partitions, streamed from Parquet a chunk at a time, as often as they are needed."""

from collections.abc import Iterable, Iterator, Sequence

import polars as pl
import pyarrow.parquet as pq

from distill_dagster.project import Distillation
from distill_dagster.prompts.store import prompts_file
from distill_dagster.teachers.protocol import TeacherIdentity

CHUNK_ROWS = 2_048
BUFFER_BYTES = 256 * 1024
PROMPT_COLUMNS = ("prompt_id", "messages", "text", "reference")

Requests = Iterable[pl.DataFrame]
"""Frames with REQUEST_COLUMNS; can be gone through again and again."""


def prompt_chunks(
    distillation: Distillation, partition: str, columns: Sequence[str] = PROMPT_COLUMNS
) -> Iterator[pl.DataFrame]:
    """A partition's current prompts (some of PROMPT_COLUMNS) in order of prompt_id, a chunk at a time.

    Raises:
        StorageError: it has none.
    """
    # Column chunks are read through a small buffer; by default all of a row group lies in memory at once.
    with pq.ParquetFile(prompts_file(distillation, partition), buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=CHUNK_ROWS, columns=list(columns), use_threads=False):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame


def with_samples(prompts: pl.DataFrame, samples: Sequence[int], identity: TeacherIdentity) -> pl.DataFrame:
    """Each prompt once for every sample (prompt by prompt), with `sample` and `request_key`."""
    indices = pl.lit(pl.Series(samples, dtype=pl.Int32).implode()).first()
    asked = prompts.with_columns(sample=indices).explode("sample")
    return asked.with_columns(identity.request_keys(asked))
