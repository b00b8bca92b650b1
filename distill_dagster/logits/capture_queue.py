"""Which stored completions still have to be captured, as token ids, in the order and batches they are read in."""

import json
from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        reused: sequences that were captured before.
        over_context: request keys of those longer than the context, which are never cut; at most 1,000 are listed.
        over_context_count: how many there are.
    """

    rows: pl.DataFrame
    tokens: "array[int]"
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

    def batches(self, batch_tokens: int) -> Iterator[list[Item]]:
        """In batches of at most `batch_tokens` tokens, padding included; a longer sequence is a batch of its own."""
        batch: list[Item] = []
        longest = 0
        for item in self.items():
            longest = longest or len(item.prompt) + len(item.completion)
            if batch and (len(batch) + 1) * longest > batch_tokens:
                yield batch
                batch, longest = [], len(item.prompt) + len(item.completion)
            batch.append(item)
        if batch:
            yield batch


def read_queue(path: Path, reader: Reader, captured: Collection[Key]) -> CaptureQueue:
    """The sequences of a file (`CaptureJob.sequences`) that are not captured yet.

    A slice of the file is in memory at a time; what equals a sequence before it is left out.
    """
    seen: set[Key] = set()
    tokens = array("i")
    rows: list[tuple[Any, ...]] = []
    long: list[str] = []
    reused = long_count = 0
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
        tokens.extend(prompt)
        tokens.extend(completion)
    return CaptureQueue(_ordered(rows), tokens, reused, long, long_count)


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
