"""Guessing next tokens by counting."""

import numpy as np
import polars as pl

from distill_dagster.evaluation.token_baselines import count_tokens


def test_bigrams_fall_back_to_the_most_frequent_token():
    counted = count_tokens(pl.Series([[5, 6, 7], [5, 6, 8], [5, 9, 5], None, []], dtype=pl.List(pl.Int32)))

    assert counted is not None
    assert counted.most_frequent == 5
    # begins with 5; after 5 comes 6 (twice, 9 once); after 6 the smaller of 7 and 8; after 42 nothing is known
    assert counted.bigram_guesses(np.array([5, 6, 42, 1])).tolist() == [5, 6, 7, 5]
    assert counted.most_frequent_guesses(np.array([1, 2])).tolist() == [5, 5]


def test_a_row_does_not_follow_the_row_before_it():
    counted = count_tokens(pl.Series([[1, 2], [3, 4], [3, 4]]))
    assert counted is not None
    assert counted.successors == {-1: 3, 1: 2, 3: 4}


def test_without_token_ids_there_is_nothing_to_count():
    assert count_tokens(pl.Series([None, []], dtype=pl.List(pl.Int32))) is None
