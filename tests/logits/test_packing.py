"""Sparse targets survive their packed form: ids exactly, log-probabilities up to float16."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_dagster.errors import LogitsError
from distill_dagster.logits.packing import columns, pack, unpack
from distill_dagster.logits.sparse import Sequence, TopK
from tests.logits.targets import (
    VOCABULARY,
    assert_same,
    make_sequence,
    make_targets,
    sample_identity,
    topk_identity,
)

IDENTITY = topk_identity()

temperatures = st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=1, max_size=3, unique=True).map(tuple)
identities = st.one_of(
    st.builds(topk_identity, k=st.integers(1, 40), temperatures=temperatures, draws=st.sampled_from([None, 1, 9])),
    st.builds(sample_identity, draws=st.integers(1, 60), draw_sets=st.integers(1, 3)),
)


@settings(deadline=None)
@given(
    identity=identities,
    vocabulary=st.sampled_from([1, 2, 30, 65_536, 65_537, 70_000]),
    lengths=st.lists(st.integers(0, 3), max_size=4),
    hidden=st.sampled_from([None, b"", b"\x00\xff"]),
    seed=st.integers(0, 1000),
)
def test_any_targets_come_back(identity, vocabulary, lengths, hidden, seed):
    sequences = [
        Sequence(f"key {at}", f"hash {at}", tokens, make_targets(identity, tokens, vocabulary, seed + at), hidden)
        for at, tokens in enumerate(lengths)
    ]

    table = pack(sequences, identity, vocabulary)
    read = list(unpack(table, identity, vocabulary, range(len(sequences))))

    assert len(read) == len(sequences)
    for there, written in zip(read, sequences, strict=True):
        assert_same(there, written)


@settings(deadline=None)
@given(st.data())
def test_any_ascending_ids_come_back(data):
    vocabulary = data.draw(st.integers(1, 200_000))
    k = data.draw(st.integers(1, min(vocabulary, 12)))
    rows = data.draw(
        st.lists(st.lists(st.integers(0, vocabulary - 1), min_size=k, max_size=k, unique=True).map(sorted), max_size=4)
    )
    identity = topk_identity(k=k, draws=None)
    targets = top_k_of(draws=0, ids=np.array(rows, dtype=np.int32).reshape(len(rows), k))

    table = pack([Sequence("key", "hash", len(rows), targets)], identity, vocabulary)
    (read,) = unpack(table, identity, vocabulary, [0])

    np.testing.assert_array_equal(read.targets.ids, targets.ids)


def test_only_the_rows_asked_for_are_unpacked():
    sequences = [make_sequence(IDENTITY, name) for name in "abc"]

    read = list(unpack(pack(sequences, IDENTITY, VOCABULARY), IDENTITY, VOCABULARY, [2, 0]))

    assert [sequence.request_key for sequence in read] == ["c", "a"]


def test_an_empty_tail_stays_empty_and_what_float16_cannot_hold_is_clipped():
    targets = replace(
        top_k_of(np.array([[0, 1, 2, 3]] * 3, dtype=np.int32)),
        log_probs=np.array([[0, -1, -2, -np.inf], [0, -1, -2, -1e6], [-1e-9, -1, -2, -3]], dtype=np.float32),
        log_tail=np.array([[-np.inf], [-1e6], [-3]], dtype=np.float32),
    )

    table = pack([Sequence("key", "hash", 3, targets)], IDENTITY, VOCABULARY)
    (read,) = unpack(table, IDENTITY, VOCABULARY, [0])

    np.testing.assert_array_equal(read.targets.log_tail[:, 0], np.array([-np.inf, -60_000, -3], dtype=np.float16))
    np.testing.assert_array_equal(read.targets.log_probs[:2, 3], np.float16([-60_000, -60_000]))
    assert read.targets.log_probs[2, 0] == 0


@pytest.mark.parametrize(("vocabulary", "width"), [(65_536, pa.uint16()), (65_537, pa.uint32())])
def test_the_vocabulary_decides_how_wide_gaps_are(vocabulary, width):
    assert columns(IDENTITY, vocabulary).field("gaps").type.value_type == width


def test_log_z_at_temperature_one_is_stored_once():
    assert "log_z" not in columns(topk_identity(temperatures=(1.0,)), VOCABULARY).names
    assert "log_z" in columns(topk_identity(temperatures=(1.0, 2.0)), VOCABULARY).names


def test_a_value_that_is_not_a_number_is_refused_with_what_to_change():
    sequence = make_sequence(IDENTITY, "a")
    sequence.targets.log_probs[1, 2] = np.nan

    with pytest.raises(LogitsError, match=r"not a number.*`dtype`"):
        pack([sequence], IDENTITY, VOCABULARY)


@pytest.mark.parametrize("ids", [[3, 2, 5, 7], [2, 2, 5, 7], [1, 2, 3, VOCABULARY]])
def test_ids_that_do_not_ascend_below_the_vocabulary_are_refused(ids):
    targets = top_k_of(np.array([ids], dtype=np.int32))

    with pytest.raises(ValueError, match="ascend"):
        pack([Sequence("key", "hash", 1, targets)], IDENTITY, VOCABULARY)


@pytest.mark.parametrize("drawn", [[7, 5, 8], [5, 7, VOCABULARY]])
def test_drawn_ids_that_do_not_ascend_below_the_vocabulary_are_refused(drawn):
    targets = replace(top_k_of(np.array([[0, 1, 2, 3]], dtype=np.int32)), tail_ids=np.array(drawn, dtype=np.int32))

    with pytest.raises(ValueError, match="ascend"):
        pack([Sequence("key", "hash", 1, targets)], IDENTITY, VOCABULARY)


def test_an_id_drawn_repeatedly_comes_back_as_often():
    targets = top_k_of(np.array([[0, 1, 2, 3]] * 2, dtype=np.int32))
    targets = replace(targets, tail_ids=np.array([4, 4, 9, 0, 0, 0], dtype=np.int32))

    (read,) = unpack(pack([Sequence("key", "hash", 2, targets)], IDENTITY, VOCABULARY), IDENTITY, VOCABULARY, [0])

    np.testing.assert_array_equal(read.targets.tail_ids, targets.tail_ids)


def test_targets_of_another_shape_than_the_identity_says_are_refused():
    sequence = make_sequence(topk_identity(k=5), "a")

    with pytest.raises(ValueError, match=r"ids is \[3, 5\], expected \[3, 4\]"):
        pack([sequence], IDENTITY, VOCABULARY)


def top_k_of(ids, draws=3):
    tokens, k = ids.shape
    return TopK(
        ids=ids,
        log_probs=np.full((tokens, k), -2, dtype=np.float32),
        log_tail=np.full((tokens, 1), -1, dtype=np.float32),
        log_z=np.full((tokens, 1), 3, dtype=np.float32),
        log_z_one=np.full(tokens, 3, dtype=np.float32),
        tail_counts=np.full(tokens, draws, dtype=np.int32),
        tail_ids=np.zeros(tokens * draws, dtype=np.int32),
    )
