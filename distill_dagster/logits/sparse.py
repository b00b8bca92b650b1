"""Sparse targets of one sequence in memory: what a teacher's next-token distributions are reduced to."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TopK:
    """The k most likely tokens at each position of a completion, the mass of all others, and some of these at random.

    Attributes:
        ids: [tokens, k], ascending within a token.
        log_probs: [tokens, k], log p at temperature 1, in the order of `ids`.
        log_tail: [tokens, temperatures], log of the mass of all other ids at each captured temperature.
        log_z: [tokens, temperatures], log Σ exp(z / T) over the whole vocabulary at each captured temperature.
        log_z_one: [tokens], log Σ exp(z): with it, log p at T is (log p + log_z_one) / T - log_z.
        tail_counts: [tokens], how many ids are drawn from all others at temperature 1; their mass is shared equally.
        tail_ids: [Σ tail_counts], token after token, ascending within a token; one may be there repeatedly.
    """

    ids: Ids
    log_probs: Floats
    log_tail: Floats
    log_z: Floats
    log_z_one: Floats
    tail_counts: Counts
    tail_ids: Ids


@dataclass(frozen=True)
class Draws:
    """Tokens drawn from the teacher's distribution at each position, one set of draws an epoch.

    Attributes:
        distinct: [draw_sets, tokens], number of different ids drawn there.
        ids: [Σ distinct], set after set, token after token, ascending within a token.
        counts: [Σ distinct], how often each was drawn; those of one token and set sum to `draws`.
        draws: ids drawn at each position, with replacement.
    """

    distinct: Counts
    ids: Ids
    counts: Counts
    draws: int


@dataclass(frozen=True)
class Sequence:
    """The sparse targets of one stored completion.

    Attributes:
        request_key: of the request that the teacher read.
        ids_hash: of the completion's token ids, see the function `ids_hash`.
        tokens: how many token ids the completion has, the stop token included.
        targets: what was kept at each of them.
        hidden: raw bytes of the teacher's last hidden states [tokens, hidden] in its own precision, or None. Only
            some validation sequences have them.
    """

    request_key: str
    ids_hash: str
    tokens: int
    targets: TopK | Draws
    hidden: bytes | None = None


def ids_hash(ids: Iterable[int]) -> str:
    """SHA-256 (hex) of token ids as little-endian int32."""
    return hashlib.sha256(np.fromiter(ids, dtype="<i4").tobytes()).hexdigest()
