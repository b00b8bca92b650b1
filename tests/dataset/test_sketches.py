"""MinHash bands: how a sketch is cut, and that alike texts share one while strangers and other contexts do not."""

import random

import numpy as np
import polars as pl
import pytest

from distill_dagster.dataset.sketches import banding, bands_of

HERE, THERE = "0123456789abcdef", "fedcba9876543210"
WORDS = [f"{chr(97 + n % 26)}{n * 7919:x}" for n in range(400)]


def bands(*texts: str, context: str = HERE, threshold: float = 0.85) -> np.ndarray:
    return bands_of(pl.Series(texts, dtype=pl.String), pl.Series([context] * len(texts)), threshold)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.85, 0.97, 1.0])
def test_a_pair_at_the_threshold_is_found_with_the_promised_probability(threshold: float) -> None:
    cut = banding(threshold)

    assert cut.bands * cut.rows <= 256
    assert 1 - (1 - threshold**cut.rows) ** cut.bands >= 0.999


def test_pairs_just_above_the_threshold_share_a_band() -> None:
    chooser = random.Random(3)
    for _ in range(200):
        words = [chooser.choice(WORDS) for _ in range(60)]
        left, right = bands(" ".join(words), " ".join([*words[:30], "other", *words[32:]]))
        assert (left == right).any()


def test_strangers_share_none() -> None:
    chooser = random.Random(4)
    sketches = bands(*(" ".join(chooser.choice(WORDS) for _ in range(30)) for _ in range(500)))

    assert all(len(np.unique(column)) == 500 for column in sketches.T)


def test_order_and_neighbours_do_not_matter_and_contexts_do() -> None:
    texts = ["", "hi", "何ですか", "🐧" * 3, "one two three", "a longer text about nothing in particular"]

    together = bands(*texts)

    assert np.array_equal(together, np.concatenate([bands(text) for text in texts]))
    assert np.array_equal(together[::-1], bands(*reversed(texts)))
    assert not (together == bands(*texts, context=THERE)).any()
    assert len(np.unique(together, axis=0)) == len(texts)
    assert bands().shape == (0, together.shape[1])
