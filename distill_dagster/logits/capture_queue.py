"""Which stored completions still have to be captured, as token ids, in the order and batches they are read in."""

import json
from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq

from distill_dagster.logits.sparse import ids_hash

COLUMNS = ["request_key", "messages", "completion_ids", "completion", "keep_hidden"]
MOST_LISTED = 1000
_READ_ROWS = 1024

Key = tuple[str, str]
"""Request key and hash of the completion's ids."""


@dataclass(frozen=True)
class Reader:
    """How stored text becomes token ids.

    Attributes:
        prompt: ids of a conversation up to where the completion begins.
        completion: ids of a completion that was stored without any.
        context: most tokens of both together; None where nothing says.
    """

    prompt: Callable[[list[dict[str, str]]], list[int]]
    completion: Callable[[str], list[int]]
    context: int | None


@dataclass(frozen=True)
class Item:
    """One completion to capture."""

    request_key: str
    ids_hash: str
    prompt: list[int]
    completion: list[int]
    keep_hidden: bool


@dataclass(frozen=True)
class CaptureQueue:
    """What is to be captured: longest first, then by key, so that running out of memory shows at once.

    Attributes:
        rows: request_key, ids_hash, keep_hidden, start (in `tokens`), prompt_tokens and tokens (of the completion).
        tokens: all prompts with their completions one after another, 4 bytes a token.
        shared_tokens: how many all prompts begin with.
        reused: sequences that were captured before.
        over_context: request keys of those longer than the context, which are never cut; at most 1,000 are listed.
        over_context_count: how many there are.
    """

    rows: pl.DataFrame
    tokens: "array[int]"
    shared_tokens: int
    reused: int
    over_context: list[str]
    over_context_count: int

    @property
    def count(self) -> int:
        """Sequences to capture."""
        return len(self.rows)

    @property
    def total_tokens(self) -> int:
        """Tokens to read, prompts and completions."""
        return int((self.rows["prompt_tokens"] + self.rows["tokens"]).sum())

    @property
    def keeps_hidden(self) -> bool:
        """Whether any sequence keeps its hidden states."""
        return bool(self.rows["keep_hidden"].any())

    def items(self) -> Iterator[Item]:
        """One after another, in order."""
        for row in self.rows.iter_rows(named=True):
            middle = row["start"] + row["prompt_tokens"]
            yield Item(
                row["request_key"],
                row["ids_hash"],
                self.tokens[row["start"] : middle].tolist(),
                self.tokens[middle : middle + row["tokens"]].tolist(),
                row["keep_hidden"],
            )

    def batches(self, batch_tokens: int, *, share: bool, start_tokens: int) -> Iterator[list[Item]]:
        """In the batches that `batch_sizes` finds cheapest.

        Args:
            batch_tokens: most tokens of a batch, padding and what rows share included.
            share: whether what all prompts begin with is read once a batch.
            start_tokens: what starting a batch costs, in tokens read.
        """
        shared = self.shared_tokens if share else 0
        lengths = (self.rows["prompt_tokens"] + self.rows["tokens"]).to_numpy()
        items = self.items()
        for size in batch_sizes(lengths, batch_tokens=batch_tokens, shared=shared, start_tokens=start_tokens):
            yield list(islice(items, size))


def read_queue(path: Path, reader: Reader, captured: Collection[Key]) -> CaptureQueue:
    """The sequences of a file (`CaptureJob.sequences`) that are not captured yet.

    A slice of the file is in memory at a time; what equals a sequence before it is left out.
    """
    seen: set[Key] = set()
    tokens = array("i")
    rows: list[tuple[Any, ...]] = []
    long: list[str] = []
    reused = long_count = 0
    beginning: list[int] | None = None
    for row in _stored(path):
        completion = row["completion_ids"]
        if completion is None:
            completion = reader.completion(row["completion"])
        key = (row["request_key"], ids_hash(completion))
        if key in seen:
            continue
        seen.add(key)
        if key in captured:
            reused += 1
            continue
        prompt = reader.prompt(json.loads(row["messages"]))
        if reader.context is not None and len(prompt) + len(completion) > reader.context:
            long_count += 1
            long = [*long, key[0]][:MOST_LISTED]
            continue
        rows.append((*key, row["keep_hidden"], len(tokens), len(prompt), len(completion)))
        beginning = prompt if beginning is None else _common(beginning, prompt)
        tokens.extend(prompt)
        tokens.extend(completion)
    return CaptureQueue(_ordered(rows), tokens, len(beginning or []), reused, long, long_count)


def batch_sizes(
    lengths: npt.NDArray[np.integer[Any]], *, batch_tokens: int, shared: int, start_tokens: int
) -> list[int]:
    """Rows of each batch, in order, such that all batches together cost least.

    A batch costs its start, what its rows share once, and its rows padded to the longest of them. Answers may differ
    much in length: batches that are as large as they may be then read padding for the most part.

    Args:
        lengths: tokens of each row, longest first.
        batch_tokens: most tokens of a batch, its rows counted whole; a longer row is a batch of its own.
        shared: tokens that all rows begin with.
        start_tokens: what starting a batch costs beside.
    """
    count = len(lengths)
    best = np.zeros(count + 1)  # cost of all rows from here on
    sizes = np.zeros(count, dtype=np.int64)
    for first in range(count - 1, -1, -1):
        most = max(1, min(count - first, batch_tokens // int(lengths[first])))
        rows = np.arange(1, most + 1)
        costs = start_tokens + shared + rows * (int(lengths[first]) - shared) + best[first + rows]
        sizes[first] = rows[costs.argmin()]
        best[first] = costs.min()
    chosen, first = [], 0
    while first < count:
        chosen.append(int(sizes[first]))
        first += chosen[-1]
    return chosen


def _common(one: list[int], other: list[int]) -> list[int]:
    """What both begin with."""
    return [first for first, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def _stored(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_READ_ROWS, columns=COLUMNS):
            yield from batch.to_pylist()


def _ordered(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    schema = {
        "request_key": pl.String(),
        "ids_hash": pl.String(),
        "keep_hidden": pl.Boolean(),
        "start": pl.Int64(),
        "prompt_tokens": pl.Int32(),
        "tokens": pl.Int32(),
    }
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    order = [-(pl.col("prompt_tokens") + pl.col("tokens")), pl.col("request_key"), pl.col("ids_hash")]
    return frame.sort(order)
