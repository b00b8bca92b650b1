"""Shards are written whole, read in part, and checked against the teacher that is expected and the bytes on disk."""

import hashlib

import numpy as np
import pytest

from distill_dagster.errors import LogitsError
from distill_dagster.logits.shards import (
    GROUP_SEQUENCES,
    check_identity,
    is_whole,
    read_info,
    read_keys,
    read_sequences,
    shards_folder,
    write_shard,
)
from distill_dagster.logits.sparse import Sequence, TopK, ids_hash
from tests.logits.targets import VOCABULARY, assert_same, make_sequence, sample_identity, topk_identity

IDENTITY = topk_identity()


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "shard.parquet"
    write_shard(path, IDENTITY, VOCABULARY, sequences())
    return path


def sequences(count=GROUP_SEQUENCES * 2 + 5, identity=IDENTITY):
    return [
        make_sequence(identity, f"s{at}", tokens=at % 4, hidden=b"state" if at == 1 else None) for at in range(count)
    ]


@pytest.mark.parametrize("identity", [IDENTITY, topk_identity(k=3, temperatures=(2.0, 1.0)), sample_identity()])
def test_sequences_come_back_in_order(tmp_path, identity):
    path = tmp_path / "shard.parquet"

    write_shard(path, identity, VOCABULARY, iter(sequences(identity=identity)))

    for read, written in zip(read_sequences(path, identity), sequences(identity=identity), strict=True):
        assert_same(read, written)


def test_some_rows_are_read_from_whichever_row_groups_hold_them(shard):
    rows = [0, 3, GROUP_SEQUENCES, 2 * GROUP_SEQUENCES + 4]

    read = list(read_sequences(shard, IDENTITY, rows))

    for sequence, row in zip(read, rows, strict=True):
        assert_same(sequence, sequences()[row])


def test_no_rows_are_no_sequences(shard):
    assert list(read_sequences(shard, IDENTITY, [])) == []


def test_a_shard_may_be_empty(tmp_path):
    write_shard(tmp_path / "empty.parquet", IDENTITY, VOCABULARY, [])

    assert list(read_sequences(tmp_path / "empty.parquet", IDENTITY)) == []
    assert read_keys(tmp_path / "empty.parquet").is_empty()


def test_keys_say_which_sequence_lies_in_which_row(shard):
    keys = read_keys(shard)

    written = sequences()
    assert keys["request_key"].to_list() == [sequence.request_key for sequence in written]
    assert keys["ids_hash"].to_list() == [sequence.ids_hash for sequence in written]
    assert keys["tokens"].to_list() == [sequence.tokens for sequence in written]
    assert keys["row"].to_list() == list(range(len(written)))


def test_a_shard_says_what_it_is(shard):
    info = read_info(shard)

    assert (info.identity, info.vocabulary, info.sequences) == (IDENTITY, VOCABULARY, len(sequences()))


def test_another_teachers_shard_is_refused_and_each_difference_named(shard):
    expected = topk_identity(k=8, tokenizer="u" * 64)

    with pytest.raises(LogitsError) as refused:
        check_identity(shard, expected)

    assert "another k (4 there, 8 expected)" in str(refused.value)
    assert f"another tokenizer ({'t' * 12}… there, {'u' * 12}… expected)" in str(refused.value)
    assert str(shard) in str(refused.value)
    with pytest.raises(LogitsError, match="another k"):
        list(read_sequences(shard, expected))


def test_the_expected_teachers_shard_is_accepted(shard):
    check_identity(shard, IDENTITY)

    assert read_info(shard).identity == IDENTITY
    assert len(list(read_sequences(shard, IDENTITY))) == read_info(shard).sequences > 0


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_truncated_shard_is_named_and_not_whole(shard, kept):
    content = shard.read_bytes()
    shard.write_bytes(content[:kept])

    assert not is_whole(shard, len(content))
    with pytest.raises(LogitsError, match=r"shard\.parquet: torn or damaged.*captured again"):
        list(read_sequences(shard, IDENTITY))


def test_no_flipped_byte_changes_what_is_read(tmp_path):
    path = tmp_path / "shard.parquet"
    written = sequences(6)
    write_shard(path, IDENTITY, VOCABULARY, written)
    before = list(read_sequences(path, IDENTITY))
    content = path.read_bytes()
    end_of_data = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    noticed = 0

    for position in range(4, end_of_data):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        try:
            read = list(read_sequences(path, IDENTITY))
        except LogitsError:
            noticed += 1
        else:
            for now, then in zip(read, before, strict=True):
                assert_same(now, then)

    assert noticed > 0.8 * (end_of_data - 4)


def test_a_missing_shard_is_named(tmp_path):
    assert not is_whole(tmp_path / "gone.parquet", 100)
    with pytest.raises(LogitsError, match=r"gone\.parquet: missing"):
        read_keys(tmp_path / "gone.parquet")


def test_another_parquet_file_is_no_shard(shard):
    read_keys(shard).write_parquet(shard)

    with pytest.raises(LogitsError, match="not captured logits"):
        read_info(shard)


def test_a_whole_shard_is_known_by_size_and_end(shard):
    size = shard.stat().st_size

    assert is_whole(shard, size)
    assert not is_whole(shard, size + 1)
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert not is_whole(shard, size)


@pytest.mark.parametrize("rows", [[1000], [-1, 0]])
def test_a_row_beyond_the_shard_is_refused(shard, rows):
    with pytest.raises(LogitsError, match="row"):
        list(read_sequences(shard, IDENTITY, rows))


def test_rows_must_ascend(shard):
    with pytest.raises(ValueError, match="ascend"):
        list(read_sequences(shard, IDENTITY, [3, 1]))


def test_nothing_appears_when_writing_fails(tmp_path):
    def broken():
        yield make_sequence(IDENTITY, "a")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_shard(tmp_path / "shard.parquet", IDENTITY, VOCABULARY, broken())

    assert list(tmp_path.iterdir()) == []


def test_captures_of_different_teachers_lie_apart(tmp_path):
    assert shards_folder(tmp_path, IDENTITY) != shards_folder(tmp_path, topk_identity(k=5))


def test_a_token_of_20_ids_and_40_draws_takes_at_most_130_bytes(tmp_path):
    vocabulary, tokens, random = 49_152, 24, np.random.default_rng(5)
    identity = topk_identity(k=20, draws=500)
    written = []
    for at in range(64):
        likely = (vocabulary ** random.random((tokens, 200))).astype(np.int32)  # low ids are the frequent ones
        ids = np.stack([np.sort(random.permutation(np.unique(row))[:20]) for row in likely])
        counts = random.integers(1, 80, size=tokens).astype(np.int32)
        drawn = [np.sort((vocabulary ** random.random(count)).astype(np.int32)) for count in counts]
        log_probs = random.normal(-6, 2.5, size=ids.shape).astype(np.float32)
        log_tail, log_z = random.normal(-3, 1, size=(2, tokens, 1)).astype(np.float32)
        targets = TopK(ids, log_probs, log_tail, log_z, log_z[:, 0], counts, np.concatenate(drawn))
        written.append(Sequence(ids_hash([at]), ids_hash([at, at]), tokens, targets))

    write_shard(tmp_path / "shard.parquet", identity, vocabulary, written)

    assert (tmp_path / "shard.parquet").stat().st_size / (64 * tokens) <= 130


def test_the_hash_of_token_ids_is_of_their_little_endian_bytes():
    assert ids_hash([1, 65_536]) == hashlib.sha256(b"\x01\x00\x00\x00\x00\x00\x01\x00").hexdigest()
