"""Which requests of a file the local teacher still has to answer, as token ids, in the order and batches it takes."""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

Encode = Callable[[list[dict[str, str]]], list[int]]
"""Token ids of a conversation up to where the answer begins."""

QUEUE_SCHEMA = {"request_key": pl.String(), "input_ids": pl.List(pl.Int32())}
_ENCODE_ROWS = 1024


@dataclass(frozen=True)
class OpenRequests:
    """What a requests file asks for that has no answer yet.

    Attributes:
        path: Parquet with request_key and messages.
        mask: per row of the file, whether it is to be answered: the first row of each key without an answer.
        total: distinct requests in the file.
    """

    path: Path
    mask: pl.Series
    total: int

    @property
    def count(self) -> int:
        """Requests to be answered."""
        return int(self.mask.sum())

    @property
    def answered(self) -> int:
        """Requests that were answered before."""
        return self.total - self.count


def open_requests(path: Path, answered: Collection[str]) -> OpenRequests:
    """Compares the keys of a requests file, alone read here, with those of the answers so far."""
    keys = pl.read_parquet(path, columns=["request_key"])["request_key"]
    first = keys.is_first_distinct()
    known = keys.is_in(pl.Series(list(answered), dtype=pl.String).implode())
    return OpenRequests(path, first & ~known, int(first.sum()))


def encode_requests(requests: OpenRequests, encode: Encode) -> pl.DataFrame:
    """The open requests as token ids (QUEUE columns), longest prompt first, then by request key.

    The file is read a slice at a time, so that of all messages only a slice is ever in memory, and of all prompts only
    their token ids (4 bytes each).
    """
    parts = [pl.DataFrame(schema=QUEUE_SCHEMA)]
    position = 0
    for batch in pq.ParquetFile(requests.path).iter_batches(_ENCODE_ROWS, columns=["request_key", "messages"]):
        part = pl.DataFrame(batch).filter(requests.mask.slice(position, batch.num_rows))
        position += batch.num_rows
        ids = [encode(json.loads(text)) for text in part["messages"]]
        parts.append(pl.DataFrame({"request_key": part["request_key"], "input_ids": ids}, schema=QUEUE_SCHEMA))
    queue = pl.concat(parts, rechunk=False)
    return queue.sort(pl.col("input_ids").list.len(), "request_key", descending=[True, False])


def cut_batches(
    queue: pl.DataFrame, *, batch_size: int, batch_tokens: int | None, max_tokens: int
) -> Iterator[pl.DataFrame]:
    """Cuts a queue, longest prompt first, into batches; see `batch_sizes`."""
    lengths = queue["input_ids"].list.len()
    start = 0
    for rows in batch_sizes(lengths, batch_size=batch_size, batch_tokens=batch_tokens, max_tokens=max_tokens):
        yield queue.slice(start, rows)
        start += rows


def batch_sizes(lengths: pl.Series, *, batch_size: int, batch_tokens: int | None, max_tokens: int) -> Iterator[int]:
    """Rows of each batch, in order.

    A batch is padded to its longest prompt and may grow by `max_tokens`, so it holds at most
    rows × (longest prompt + max_tokens) tokens: that is what `batch_tokens` limits. A single row is always a batch.

    Args:
        lengths: tokens of each prompt, longest first.
        batch_size: most rows of a batch.
        batch_tokens: most tokens of a batch; None for no limit.
        max_tokens: longest answer.
    """
    start = 0
    while start < len(lengths):
        rows = batch_size
        if batch_tokens is not None:
            rows = min(rows, batch_tokens // (lengths[start] + max_tokens))
        rows = max(1, min(rows, len(lengths) - start))
        yield rows
        start += rows
