"""Cuts requests into the parts that become batches."""

from collections.abc import Iterator

import polars as pl

# The provider takes 100,000 requests and 256 MB; smaller batches keep memory flat, and one that expires loses less.
MOST_REQUESTS = 10_000
MOST_BYTES = 32 * 1024 * 1024


def batch_sized(chunks: Iterator[pl.DataFrame], overhead_bytes: int) -> Iterator[pl.DataFrame]:
    """The same requests, cut and joined into parts that fit into one batch by number and size.

    Args:
        chunks: with the column `messages`.
        overhead_bytes: of a request beside its messages.
    """
    gathered: list[pl.DataFrame] = []
    rows = size = 0
    for chunk in chunks:
        start = 0
        for end, own in enumerate(chunk["messages"].str.len_bytes().to_list(), start=1):
            bytes_ = own + overhead_bytes
            if rows and (rows == MOST_REQUESTS or size + bytes_ > MOST_BYTES):
                gathered.append(chunk.slice(start, end - 1 - start))
                yield pl.concat(gathered)
                gathered, start, rows, size = [], end - 1, 0, 0
            rows, size = rows + 1, size + bytes_
        gathered.append(chunk.slice(start))
    if rows:
        yield pl.concat(gathered)
