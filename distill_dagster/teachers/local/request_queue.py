"""Which requests of a file the local teacher still has to answer, as token ids, in the order and batches it takes."""

import json
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

Encode = Callable[[list[dict[str, str]]], list[int]]
"""Token ids of a conversation up to where the answer begins."""

_ENCODE_ROWS = 1024


@dataclass(frozen=True)
class OpenRequests:
    """What a requests file asks for that has no answer yet.

    Attributes:
        path: Parquet with request_key and messages.
        keys: request_key of every row of the file.
        mask: per row, whether it is to be answered: the first of each key without an answer.
        total: distinct requests in the file.
    """

    path: Path
    keys: pl.Series
    mask: pl.Series
    total: int

    @classmethod
    def of(cls, path: Path, answered: Collection[str]) -> "OpenRequests":
        """Compares the keys of a requests file, alone read here, with those of the answers so far."""
        keys = pl.read_parquet(path, columns=["request_key"])["request_key"]
        first = keys.is_first_distinct()
        known = keys.is_in(pl.Series(list(answered), dtype=pl.String).implode())
        return cls(path, keys, first & ~known, int(first.sum()))

    @property
    def count(self) -> int:
        """Requests to be answered."""
        return int(self.mask.sum())

    @property
    def answered(self) -> int:
        """Requests that were answered before."""
        return self.total - self.count

    def messages(self) -> Iterator[str]:
        """The messages to be answered (JSON), in the file's order; a slice of the file is in memory at a time."""
        position = 0
        for batch in pq.ParquetFile(self.path).iter_batches(_ENCODE_ROWS, columns=["messages"]):
            texts = batch.column("messages").to_pylist()
            wanted = self.mask.slice(position, len(texts))
            position += len(texts)
            yield from (text for text, is_open in zip(texts, wanted, strict=True) if is_open)


@dataclass(frozen=True)
class Batch:
    """Requests that are answered together."""

    request_keys: list[str]
    prompts: list[list[int]]


@dataclass(frozen=True)
class Queue:
    """Tokenised prompts in the order in which they are answered: longest first, then by request key.

    Attributes:
        rows: request_key, length (tokens of the prompt) and start (where it begins in `tokens`), in the queue's order.
        tokens: all prompts one after another, 4 bytes a token: as Python lists they would take ten times that.
    """

    rows: pl.DataFrame
    tokens: "array[int]"

    @property
    def lengths(self) -> pl.Series:
        """Tokens of each prompt."""
        return self.rows["length"]

    def batches(self, sizes: Iterable[int]) -> Iterator[Batch]:
        """The queue in batches of so many rows each."""
        position = 0
        for size in sizes:
            rows = self.rows.slice(position, size)
            position += size
            spans = rows.select("start", "length").iter_rows()
            yield Batch(
                rows["request_key"].to_list(), [self.tokens[start : start + length].tolist() for start, length in spans]
            )


def encode_requests(requests: OpenRequests, encode: Encode) -> Queue:
    """The open requests as a queue; of all messages only a slice is ever in memory."""
    tokens, lengths = array("i"), array("i")
    for text in requests.messages():
        prompt = encode(json.loads(text))
        tokens.extend(prompt)
        lengths.append(len(prompt))
    length = pl.Series("length", lengths, dtype=pl.Int32)
    rows = pl.DataFrame(
        {
            "request_key": requests.keys.filter(requests.mask),
            "length": length,
            "start": length.cast(pl.Int64).cum_sum() - length,
        }
    )
    return Queue(rows.sort("length", "request_key", descending=[True, False]), tokens)


def chunk_sizes(total: int, size: int) -> Iterator[int]:
    """Rows of each batch where every batch but the last has `size`."""
    return chain(repeat(size, total // size), [total % size] if total % size else [])


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
