"""Reduces the logits of a batch chunk by chunk and gives each of its sequences the targets that are its own."""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.logits.capture_queue import Item
from distill_dagster.logits.reduce import Reduced, count_draws, draw, top_k, uniforms
from distill_dagster.logits.sparse import Draws, TopK


class Reducer(Protocol):
    """Takes the logits at a batch's completion positions, in order."""

    def add(self, logits: Tensor) -> None:
        """The next chunk, [positions, vocabulary] float32; destroyed. At least one is added, perhaps empty."""
        ...

    def targets(self) -> Iterator[TopK | Draws]:
        """What was kept, sequence after sequence."""
        ...


def reducer_of(identity: CaptureIdentity, items: Items[Item], seed: int) -> Reducer:
    """What reduces a batch as a capture's identity says; `seed` is for draws."""
    if identity.method == "topk":
        return TopKReducer(items, identity, seed)
    (temperature,) = identity.temperatures
    return DrawReducer(items, (identity.draw_sets or 0, identity.draws or 0), temperature, seed)


class TopKReducer:
    """Keeps the k most likely ids, the mass of the others, and draws from these."""

    def __init__(self, items: Items[Item], identity: CaptureIdentity, seed: int) -> None:
        self._ends = _ends(items)
        self._identity = identity
        self._starts = torch.from_numpy(
            np.concatenate(
                [uniforms(seed, item.request_key, item.ids_hash, (1, len(item.completion), 1))[0] for item in items]
            )
        )
        self._chunks: list[Reduced] = []
        self._position = 0

    def add(self, logits: Tensor) -> None:
        kept = self._identity
        starts = None
        if kept.draws:
            starts = self._starts[self._position : self._position + len(logits)].to(logits.device)
        self._position += len(logits)
        self._chunks.append(top_k(logits, kept.k or 0, kept.temperatures, starts, kept.draws or 0))

    def targets(self) -> Iterator[TopK | Draws]:
        parts = (
            [chunk.ids.int() for chunk in self._chunks],
            [chunk.log_probs for chunk in self._chunks],
            [chunk.log_tail for chunk in self._chunks],
            [chunk.log_z for chunk in self._chunks],
            [chunk.log_z_one for chunk in self._chunks],
            [chunk.tail_counts.int() for chunk in self._chunks],
        )
        whole = [_cut(part, self._ends) for part in parts]
        drawn = _cut(
            [chunk.tail_ids.int() for chunk in self._chunks], np.cumsum([counts.sum() for counts in whole[-1]])
        )
        for arrays in zip(*whole, drawn, strict=True):
            yield TopK(*arrays)


class DrawReducer:
    """Keeps ids that are drawn at random."""

    def __init__(self, items: Items[Item], sets_and_draws: tuple[int, int], temperature: float, seed: int) -> None:
        """Args:
        sets_and_draws: sets of draws, and ids drawn in each at each position.
        """
        self._ends = _ends(items)
        self._shape = sets_and_draws
        self._temperature = temperature
        sets, draws = sets_and_draws
        chances = [
            uniforms(seed, item.request_key, item.ids_hash, (sets, len(item.completion), draws)).swapaxes(0, 1)
            for item in items
        ]
        self._chances = torch.from_numpy(np.concatenate(chances).reshape(-1, sets * draws))
        self._drawn: list[Tensor] = []
        self._position = 0

    def add(self, logits: Tensor) -> None:
        chances = self._chances[self._position : self._position + len(logits)].to(logits.device)
        self._drawn.append(draw(logits, chances, self._temperature))
        self._position += len(logits)

    def targets(self) -> Iterator[TopK | Draws]:
        for ids in _cut(self._drawn, self._ends):
            yield count_draws(ids.reshape(-1, *self._shape).swapaxes(0, 1))


def _ends(items: Items[Item]) -> npt.NDArray[np.int64]:
    """Where each sequence's positions end in the batch's."""
    return np.cumsum([len(item.completion) for item in items])


def _cut(parts: list[Tensor], ends: npt.NDArray[np.int64]) -> list[npt.NDArray[Any]]:
    return np.split(torch.cat(parts).cpu().numpy(), ends[:-1])
