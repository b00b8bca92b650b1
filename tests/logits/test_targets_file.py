"""Training reads decoded targets by position, at its own temperature, from files that are built once."""

import numpy as np
import polars as pl
import pytest

from distill_dagster.errors import LogitsError
from distill_dagster.logits import targets_file
from distill_dagster.logits.shards import read_keys, write_shard
from distill_dagster.logits.targets_file import TargetsFile, build_targets_file
from tests.logits.targets import VOCABULARY, make_sequence, sample_identity, topk_identity

NAMES = [f"s{at}" for at in range(9)]


def write_shards(folder, identity, vocabulary=VOCABULARY):
    """Three shards of three sequences; returns the sequences by name, and their places in a shuffled order."""
    sequences = {
        name: make_sequence(identity, name, tokens=at % 4 + 1, vocabulary=vocabulary, hidden=name.encode() * (at % 2))
        for at, name in enumerate(NAMES)
    }
    places = []
    for at in range(3):
        path = folder / f"{at}.parquet"
        write_shard(path, identity, vocabulary, [sequences[name] for name in NAMES[at * 3 : at * 3 + 3]])
        places.append(read_keys(path).with_columns(pl.lit(path.name).alias("shard")))
    wanted = pl.concat(places).select("request_key", "ids_hash", "shard", "row")
    return sequences, wanted.sample(fraction=1, shuffle=True, seed=3)


def build(tmp_path, wanted, identity, temperature=1.0, vocabulary=VOCABULARY):
    return build_targets_file(tmp_path / "scratch", wanted, tmp_path, identity, vocabulary, temperature)


def forbid_decoding(monkeypatch):
    def read_sequences(*arguments):
        raise AssertionError("decoded again")

    monkeypatch.setattr(targets_file, "read_sequences", read_sequences)


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 70_000])
def test_topk_targets_are_found_by_position(tmp_path, vocabulary):
    identity = topk_identity()
    sequences, wanted = write_shards(tmp_path, identity, vocabulary)

    targets = build(tmp_path, wanted, identity, vocabulary=vocabulary)

    assert len(targets) == len(NAMES)
    for position, name in enumerate(wanted["request_key"]):
        ids, log_probs, log_tail = targets.topk(position)
        written = sequences[name].targets
        assert (ids.dtype, log_probs.dtype, log_tail.dtype) == (np.int64, np.float32, np.float32)
        assert targets.tokens(position) == sequences[name].tokens
        np.testing.assert_array_equal(ids, written.ids)
        np.testing.assert_allclose(log_probs, written.log_probs, rtol=2**-11)
        np.testing.assert_allclose(log_tail, written.log_tail[:, 0], rtol=2**-11)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_log_probabilities_are_those_of_the_training_temperature(tmp_path, temperature):
    identity = topk_identity(k=VOCABULARY, temperatures=(3.0, 1.0, 0.5))
    sequences, wanted = write_shards(tmp_path, identity)

    targets = build(tmp_path, wanted, identity, temperature)

    for position, name in enumerate(wanted["request_key"]):
        _, log_probs, log_tail = targets.topk(position)
        expected = sequences[name].targets.log_probs / temperature
        expected -= np.log(np.exp(expected).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(log_probs, expected, rtol=2**-9, atol=1e-3)
        assert np.isneginf(log_tail).all()


def test_head_and_tail_have_all_the_mass_together(tmp_path):
    identity = topk_identity(k=6, temperatures=(2.0,))
    _, wanted = write_shards(tmp_path, identity)

    targets = build(tmp_path, wanted, identity, 2.0)

    for position in range(len(targets)):
        _, log_probs, log_tail = targets.topk(position)
        np.testing.assert_allclose(np.exp(log_probs).sum(axis=1) + np.exp(log_tail), 1, atol=2e-3)


def test_draws_lie_token_after_token(tmp_path):
    identity = sample_identity(draws=7, draw_sets=3)
    sequences, wanted = write_shards(tmp_path, identity)

    targets = build(tmp_path, wanted, identity)

    for position, name in enumerate(wanted["request_key"]):
        written = sequences[name].targets
        start = 0
        for draw_set in range(3):
            ids, weights, counts = targets.draws(position, draw_set)
            np.testing.assert_array_equal(counts, written.distinct[draw_set])
            pairs = slice(start, start + counts.sum())
            np.testing.assert_array_equal(ids, written.ids[pairs])
            np.testing.assert_allclose(weights * 7, written.counts[pairs])
            assert weights.sum() == pytest.approx(len(counts), rel=1e-6)
            start = pairs.stop


def test_an_epoch_without_its_own_draws_is_refused(tmp_path):
    identity = sample_identity(draw_sets=2)
    _, wanted = write_shards(tmp_path, identity)

    with pytest.raises(LogitsError, match="draw_sets: 3"):
        build(tmp_path, wanted, identity).draws(0, 2)


def test_hidden_states_come_back_as_they_were(tmp_path):
    identity = topk_identity()
    states = {"a": b"\x01\x02", "b": None, "c": b""}
    shard = tmp_path / "shard.parquet"
    write_shard(shard, identity, VOCABULARY, [make_sequence(identity, name, hidden=states[name]) for name in states])
    wanted = read_keys(shard).with_columns(pl.lit(shard.name).alias("shard"))

    targets = build(tmp_path, wanted, identity)

    assert [targets.hidden(position) for position in range(3)] == [b"\x01\x02", None, b""]


def test_a_sequence_may_be_wanted_twice_and_nothing_may_be_wanted(tmp_path):
    identity = topk_identity()
    _, wanted = write_shards(tmp_path, identity)

    twice = build(tmp_path, pl.concat([wanted.head(1), wanted.head(1)]), identity)
    nothing = build(tmp_path, wanted.clear(), identity)

    np.testing.assert_array_equal(twice.topk(0)[0], twice.topk(1)[0])
    assert len(nothing) == 0


def test_progress_counts_what_is_wanted(tmp_path):
    identity = topk_identity()
    _, wanted = write_shards(tmp_path, identity)
    told = []

    build_targets_file(
        tmp_path / "scratch",
        wanted,
        tmp_path,
        identity,
        VOCABULARY,
        1.0,
        lambda done, total: told.append((done, total)),
    )

    assert told == [(done, 9) for done in range(1, 10)]


def test_a_complete_file_is_used_again(tmp_path, monkeypatch):
    identity = topk_identity()
    _, wanted = write_shards(tmp_path, identity)
    first = build(tmp_path, wanted, identity)
    forbid_decoding(monkeypatch)

    again = build(tmp_path, wanted, identity)

    np.testing.assert_array_equal(again.topk(4)[1], first.topk(4)[1])


def test_a_file_made_for_something_else_is_made_again(tmp_path):
    identity = topk_identity(temperatures=(1.0, 2.0))
    sequences, wanted = write_shards(tmp_path, identity)
    build(tmp_path, wanted, identity)

    fewer = build(tmp_path, wanted.tail(2), identity)
    warmer = build(tmp_path, wanted.tail(2), identity, 2.0)

    assert len(fewer) == 2
    assert warmer.temperature == 2.0
    assert not np.array_equal(fewer.topk(0)[1], warmer.topk(0)[1])
    np.testing.assert_array_equal(warmer.topk(0)[0], sequences[wanted["request_key"][-2]].targets.ids)


@pytest.mark.parametrize("file", ["ids.bin", "log_probs.bin", "places.npy", "targets.json"])
def test_a_torn_file_is_not_opened_and_is_made_again(tmp_path, file):
    identity = topk_identity()
    sequences, wanted = write_shards(tmp_path, identity)
    build(tmp_path, wanted, identity)
    torn = tmp_path / "scratch" / file
    torn.write_bytes(torn.read_bytes()[:-1] if file != "targets.json" else b"{")

    with pytest.raises(LogitsError, match="not complete"):
        TargetsFile.open(tmp_path / "scratch")
    targets = build(tmp_path, wanted, identity)

    for position, name in enumerate(wanted["request_key"]):
        np.testing.assert_array_equal(targets.topk(position)[0], sequences[name].targets.ids)


def test_a_build_that_stops_half_way_leaves_nothing_to_open(tmp_path, monkeypatch):
    identity = topk_identity()
    _, wanted = write_shards(tmp_path, identity)
    (tmp_path / "2.parquet").rename(tmp_path / "elsewhere.parquet")

    with pytest.raises(LogitsError, match=r"2\.parquet: missing"):
        build(tmp_path, wanted, identity)

    with pytest.raises(LogitsError, match="not complete"):
        TargetsFile.open(tmp_path / "scratch")
    (tmp_path / "elsewhere.parquet").rename(tmp_path / "2.parquet")
    assert len(build(tmp_path, wanted, identity)) == len(NAMES)


def test_a_temperature_that_was_not_captured_is_refused_with_what_to_write(tmp_path):
    identity = topk_identity(temperatures=(1.0, 1.5))
    _, wanted = write_shards(tmp_path, identity)

    with pytest.raises(LogitsError, match=r"captured at temperature 1, 1\.5, .* add 2 to logits\.temperatures"):
        build(tmp_path, wanted, identity, 2.0)


@pytest.mark.parametrize("column", ["request_key", "ids_hash"])
def test_a_sequence_that_is_not_at_its_place_is_refused(tmp_path, column):
    identity = topk_identity()
    _, wanted = write_shards(tmp_path, identity)

    with pytest.raises(LogitsError, match="another completion"):
        build(tmp_path, wanted.with_columns(pl.lit("another").alias(column)), identity)


def test_another_teachers_shards_are_refused(tmp_path):
    _, wanted = write_shards(tmp_path, topk_identity())

    with pytest.raises(LogitsError, match="another tokenizer"):
        build(tmp_path, wanted, topk_identity(tokenizer="other"))
