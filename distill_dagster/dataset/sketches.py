"""MinHash bands of texts: prompts whose 5-grams are alike share one with near certainty, others hardly ever do.

Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import rensa
from numpy.typing import NDArray

SHINGLE_CHARS = 5
_MOST_PERMUTATIONS = 256
_SEED = 17
_RECALL = 0.999
_SKETCHED_TOGETHER = 1_024
# Odd, so that multiplying by it loses nothing modulo 2⁶⁴ (the golden ratio's fraction).
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)

Bands = NDArray[np.uint32]
"""A row a prompt, a column a band."""


class Banding(NamedTuple):
    """How a sketch is cut: some bands of `rows` permutations each."""

    bands: int
    rows: int


def banding(threshold: float) -> Banding:
    """The cut with the longest bands that finds a pair at the threshold: 1 - (1 - t^r)^b ≥ recall, b r ≤ permutations.

    The longer a band, the fewer pairs share one by chance, and their number grows with the square of the prompts'.
    """
    best = Banding(_MOST_PERMUTATIONS, 1)
    for rows in range(1, _MOST_PERMUTATIONS + 1):
        alike = threshold**rows
        bands = 1 if alike >= _RECALL else math.ceil(math.log(1 - _RECALL) / math.log1p(-alike))
        if bands * rows > _MOST_PERMUTATIONS:
            break
        best = Banding(bands, rows)
    return best


def bands_of(normal: pl.Series, context: pl.Series, threshold: float) -> Bands:
    """The bands of prompts.

    Args:
        normal: texts; their character 5-grams count, of a shorter one the text itself.
        context: 16 hex characters; prompts in different contexts have no gram in common.
        threshold: least Jaccard similarity that is to be found.
    """
    cut = banding(threshold)
    powers = np.cumprod(np.full(cut.rows, _MULTIPLIER))
    bands = [np.empty((0, cut.bands), dtype=np.uint32)]
    for start in range(0, len(normal), _SKETCHED_TOGETHER):
        texts = normal.slice(start, _SKETCHED_TOGETHER).to_list()
        heads = context.slice(start, _SKETCHED_TOGETHER).str.to_integer(base=16, dtype=pl.UInt64).to_numpy()
        grams, offsets = _grams(texts, heads)
        matrix: Any = rensa.RMinHash.digest_matrix_from_flat_token_hashes(grams, offsets, cut.bands * cut.rows, _SEED)
        digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(texts), cut.bands, cut.rows)
        bands.append(((digests * powers).sum(axis=2) >> _HALF).astype(np.uint32))
    return np.concatenate(bands)


def _grams(texts: list[str], contexts: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Hashes of all texts' grams one after another, and where each text's begin (one more than there are texts)."""
    padded = [text.ljust(SHINGLE_CHARS, "\0") for text in texts]
    chars = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    lengths = np.fromiter(map(len, padded), dtype=np.int64, count=len(padded))
    counts = lengths - SHINGLE_CHARS + 1
    offsets = np.concatenate([[0], np.cumsum(counts)])
    first = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    places = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], counts)
    hashes = np.repeat(contexts, counts)
    for shift in range(SHINGLE_CHARS):
        hashes = _mixed(hashes ^ chars[places + shift])
    return hashes, offsets.astype(np.uint64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spreads each value's bits over all 64."""
    values = values * _MULTIPLIER
    return values ^ (values >> _HALF)
