"""Which sequences are captured together."""

from itertools import accumulate

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distill_dagster.logits.capture_queue import batch_sizes


def cost(lengths: list[int], sizes: list[int], shared: int, start_tokens: int) -> int:
    starts = [0, *accumulate(sizes)][:-1]
    return sum(
        start_tokens + shared + size * (lengths[start] - shared) for start, size in zip(starts, sizes, strict=True)
    )


def all_cuts(count: int) -> list[list[int]]:
    """Every way to cut so many rows into batches."""
    if not count:
        return [[]]
    return [[first, *rest] for first in range(1, count + 1) for rest in all_cuts(count - first)]


def test_one_long_answer_does_not_pad_the_short_ones():
    lengths = np.array([420, 160, 160, 159, 158])
    assert batch_sizes(lengths, batch_tokens=8192, shared=143, start_tokens=32) == [1, 4]


def test_few_tokens_are_padded_rather_than_start_another_batch():
    lengths = np.array([170, 160, 160, 159, 158])
    assert batch_sizes(lengths, batch_tokens=8192, shared=143, start_tokens=32) == [5]


def test_nothing_to_capture_is_no_batch():
    assert batch_sizes(np.array([], dtype=np.int64), batch_tokens=10, shared=0, start_tokens=1) == []


@given(st.lists(st.integers(5, 60), min_size=1, max_size=9), st.integers(1, 200), st.integers(0, 4), st.integers(0, 50))
def test_batches_fit_and_no_others_cost_less(lengths, batch_tokens, shared, start_tokens):
    lengths.sort(reverse=True)

    sizes = batch_sizes(np.array(lengths), batch_tokens=batch_tokens, shared=shared, start_tokens=start_tokens)

    def fits(cut: list[int]) -> bool:
        starts = [0, *accumulate(cut)][:-1]
        return all(size == 1 or size * lengths[start] <= batch_tokens for start, size in zip(starts, cut, strict=True))

    assert fits(sizes)
    assert sum(sizes) == len(lengths)
    cheapest = min(cost(lengths, cut, shared, start_tokens) for cut in all_cuts(len(lengths)) if fits(cut))
    assert cost(lengths, sizes, shared, start_tokens) == cheapest
