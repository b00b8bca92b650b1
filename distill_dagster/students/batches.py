"""Cuts tokenised rows into batches of similar length and collates them, the same for every objective.

A batch is what one call of the training loop takes. Where one process trains alone it is read in pieces, one forward
and backward pass each, so that memory depends on the tokens of a piece and not on the size of the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from distill_dagster.logits.projection import collate
from distill_dagster.students.tokens import TokenisedRows

# Steps whose rows are shuffled among each other: few enough that lengths stay alike, enough that neighbours change.
WINDOW_STEPS = 8
# Tokens of a piece with its padding: enough to keep matrix products busy on a CPU.
PIECE_TOKENS = 640
Targets = Callable[[Sequence[int], int], dict[str, Tensor]]
"""What an objective needs beside the tokens: (positions of rows, epoch) → tensors by name."""


class Positions(Dataset[int]):
    """The rows' positions; the collator looks the rows up."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> int:
        return position


class LengthBatches(Sampler[list[int]]):
    """Batches of rows of similar length, in an order that depends on seed and epoch alone.

    Rows are sorted by length and cut into windows of `WINDOW_STEPS` steps; each epoch shuffles the rows within the
    windows, then the steps. Every epoch has the same number of batches, and the first step holds the longest row, so
    that running out of memory shows at once. The step with the rows that are left over is the last.
    """

    def __init__(
        self, lengths: Sequence[int], *, rows: int, tokens: int | None, accumulation: int = 1, seed: int
    ) -> None:
        """Args:
        lengths: tokens of each row.
        rows: rows of a batch.
        tokens: instead of `rows`: as many rows as fit when each is padded to the longest in its window.
        accumulation: batches of one step.
        seed: of the shuffling.
        """
        self._accumulation = accumulation
        self._order = np.argsort(-np.asarray(lengths), kind="stable")
        self._lengths = np.asarray(lengths)[self._order]
        self._rows, self._tokens, self._seed = rows, tokens, seed
        self._windows = list(self._cut())
        self.epoch = 0
        self.batch_size = rows
        self.drop_last = False

    @property
    def sampler(self) -> "LengthBatches":
        """Where the training loop looks for `set_epoch` when it has wrapped this in a sampler of its own."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(-(-(stop - start) // size) for start, stop, size in self._windows)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self._seed, self.epoch])
        steps = [step for window in self._windows for step in self._shuffled(window, generator)]
        longest = int(self._order[0])
        whole = [(rows, size) for rows, size in steps if len(rows) == size * self._accumulation]
        order = generator.permutation(len(whole))
        shuffled = sorted((whole[index] for index in order), key=lambda step: longest not in step[0])
        for rows, size in [*shuffled, *(step for step in steps if len(step[0]) < step[1] * self._accumulation)]:
            yield from (rows[at : at + size] for at in range(0, len(rows), size))

    def _cut(self) -> Iterator[tuple[int, int, int]]:
        """(start, stop, rows of a batch) of each window over the rows sorted by length."""
        start = 0
        while start < len(self._order):
            size = self._rows if self._tokens is None else max(1, self._tokens // int(self._lengths[start]))
            stop = min(len(self._order), start + size * self._accumulation * WINDOW_STEPS)
            yield start, stop, size
            start = stop

    def _shuffled(
        self, window: tuple[int, int, int], generator: np.random.Generator
    ) -> Iterator[tuple[list[int], int]]:
        """The rows of each step of a window, and how many of them make a batch."""
        start, stop, size = window
        rows = generator.permutation(self._order[start:stop]).tolist()
        step = size * self._accumulation
        return ((rows[at : at + step], size) for at in range(0, len(rows), step))


class Collator:
    """Positions of rows → what one batch's forward passes read."""

    def __init__(
        self,
        rows: TokenisedRows,
        targets: Targets,
        *,
        share: bool,
        epoch: Callable[[], int],
        piece_tokens: int | None = PIECE_TOKENS,
    ) -> None:
        """Args:
        targets: the objective's own tensors.
        share: whether the model can read what all prompts begin with once.
        epoch: which epoch it is.
        piece_tokens: the most tokens of a piece, padding included; None reads each batch in one.
        """
        self._rows, self._targets, self._share, self._epoch = rows, targets, share, epoch
        self._piece_tokens = piece_tokens

    def __len__(self) -> int:
        return len(self._rows.lengths)

    def __call__(self, positions: Sequence[int]) -> dict[str, Any]:
        """The batch's `pieces`, and all their completion tokens as `shift_labels`.

        A piece holds tensors by name: those of `CompletionBatch`, the completion tokens as `labels`, and the
        objective's.
        """
        pieces = [self._piece(chosen) for chosen in self._cut(positions)]
        labels = torch.cat([piece["labels"] for piece in pieces])
        # the training loop counts a window's tokens by the second name, and wants the first to be there
        return {"pieces": pieces, "labels": labels, "shift_labels": labels}

    def _cut(self, positions: Sequence[int]) -> list[Sequence[int]]:
        if self._piece_tokens is None:
            return [positions]
        lengths = self._rows.lengths
        pieces: list[list[int]] = []
        for position in sorted(positions, key=lambda row: -lengths[row]):
            if pieces and (len(pieces[-1]) + 1) * lengths[pieces[-1][0]] <= self._piece_tokens:
                pieces[-1].append(position)
            else:
                pieces.append([position])
        return list(pieces)

    def _piece(self, positions: Sequence[int]) -> dict[str, Tensor]:
        prompts = [self._rows.prompt(position) for position in positions]
        completions = [self._rows.completion(position) for position in positions]
        batch = collate(prompts, completions, share=self._share)
        labels = batch.labels
        return {
            "prefix": batch.prefix,
            "input_ids": batch.input_ids,
            "target": batch.target,
            "labels": labels,
            "tokens": torch.tensor(sum(map(len, prompts)) + len(labels)),
            **self._targets(positions, self._epoch()),
        }


def even_batches(lengths: Sequence[int], *, rows: int) -> Iterator[list[int]]:
    """Positions in batches of similar length, longest first: for validation, where order is free."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return (order[start : start + rows].tolist() for start in range(0, len(order), rows))
