"""Compaction keeps all that any version refers to, and a kill at any point leaves every index readable."""

import pytest

from distill_dagster.logits.compaction import Compacted, compact, foresee
from distill_dagster.logits.index import INDEX_FOLDER, read_index, write_index
from distill_dagster.logits.shards import read_keys, read_sequences, shards_folder, write_shard
from distill_dagster.logits.sparse import Sequence
from tests.logits.targets import VOCABULARY, assert_same, index_of, make_sequence, sample_identity, topk_identity

IDENTITY = topk_identity()
OTHER = sample_identity()


class StopError(Exception):
    """Stands for a kill."""


def add_shard(root, name, sequences, identity=IDENTITY):
    path = shards_folder(root, identity) / f"{name}.parquet"
    write_shard(path, identity, VOCABULARY, [make_sequence(identity, sequence) for sequence in sequences])
    return path


def add_index(root, partition, shards, names, identity=IDENTITY):
    folder = root / INDEX_FOLDER / partition
    return write_index(folder, index_of(identity, *shards, names=names), shards_folder(root, identity))


def worn_distillation(root):
    """Two shards that are mostly unused, one that is mostly used, one that is not used, and another teacher's."""
    worn = add_shard(root, "worn", "abcdef")
    thin = add_shard(root, "thin", "ghijkl")
    kept = add_shard(root, "kept", "mnop")
    unused = add_shard(root, "unused", "qr")
    other = add_shard(root, "other", "abcdef", OTHER)
    add_index(root, "animals", [worn, kept], ["b", "m", "n"])
    add_index(root, "animals", [worn, kept], ["b", "e", "m", "n", "o"])
    add_index(root, "plants", [thin, worn], ["h", "b"])
    add_index(root, "plants", [other], ["c"], OTHER)
    return worn, thin, kept, unused, other


def contents(root) -> dict[tuple[str, str], dict[str, Sequence]]:
    """What every index leads to, by partition and version."""
    found = {}
    for path in (root / INDEX_FOLDER).glob("*/*.parquet"):
        index = read_index(path)
        assert index.version == path.stem
        folder = shards_folder(root, index.identity)
        sequences = {}
        for shard, rows in index.frame.sort("row").group_by("shard"):
            read = read_sequences(folder / shard[0], index.identity, rows["row"].to_list())
            for key, sequence in zip(rows["request_key"], read, strict=True):
                assert sequence.request_key == key
                sequences[key] = sequence
        assert set(sequences) == set(index.frame["request_key"])
        found[(path.parent.name, path.stem)] = sequences
    return found


def assert_same_contents(now, then):
    assert now.keys() == then.keys()
    for version, sequences in then.items():
        assert now[version].keys() == sequences.keys()
        for key, sequence in sequences.items():
            assert_same(now[version][key], sequence)


def test_worn_shards_are_rewritten_and_unused_ones_removed(tmp_path):
    worn, thin, kept, unused, other = worn_distillation(tmp_path)
    before = contents(tmp_path)
    kept_bytes = kept.read_bytes()

    compacted = compact(tmp_path)

    assert_same_contents(contents(tmp_path), before)
    assert not any(path.exists() for path in (worn, thin, unused, other))
    assert kept.read_bytes() == kept_bytes
    shards = list(tmp_path.glob("teacher_logit_shards/*/*.parquet"))
    assert compacted.shards_removed == 4
    assert compacted.bytes_after == sum(path.stat().st_size for path in shards)
    assert compacted.bytes_after < compacted.bytes_before
    new = next(path for path in shards if path.name.startswith("compacted") and path.parent == worn.parent)
    assert [sequence.request_key for sequence in read_sequences(new, IDENTITY)] == ["h", "b", "e"]


def test_a_second_compaction_finds_nothing_to_do(tmp_path):
    worn_distillation(tmp_path)
    first = compact(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    second = compact(tmp_path)

    assert second == Compacted(first.bytes_after, first.bytes_after, 0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


def test_a_kill_at_any_step_leaves_every_index_readable(tmp_path):
    steps = []
    worn_distillation(tmp_path / "whole")
    compact(tmp_path / "whole", steps.append)
    assert len(steps) >= 9

    for last in range(len(steps)):
        root = tmp_path / str(last)
        worn_distillation(root)
        before = contents(root)

        with pytest.raises(StopError):
            compact(root, stop_at(last))

        assert_same_contents(contents(root), before)
        compact(root)
        assert_same_contents(contents(root), before)
        assert compact(root).shards_removed == 0


def test_a_failing_write_leaves_every_index_readable(tmp_path, monkeypatch):
    worn_distillation(tmp_path)
    before = contents(tmp_path)

    def full_disk(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr("distill_dagster.storage.publish_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        compact(tmp_path)

    assert_same_contents(contents(tmp_path), before)


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    worn, *_ = worn_distillation(tmp_path)
    leftovers = [worn.with_name(".half.parquet.0a1b.tmp"), tmp_path / INDEX_FOLDER / "animals" / ".x.parquet.tmp"]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    head = worn.with_name("head.safetensors")
    head.write_bytes(b"kept")

    compact(tmp_path)

    assert not any(leftover.exists() for leftover in leftovers)
    assert head.exists()


def test_a_torn_shard_that_is_referred_to_stays_for_capture_to_replace(tmp_path):
    worn, *_ = worn_distillation(tmp_path)
    worn.write_bytes(worn.read_bytes()[:50])

    compact(tmp_path)

    assert worn.exists()


def test_a_distillation_without_logits_is_left_alone(tmp_path):
    assert compact(tmp_path) == Compacted(0, 0, 0)


def stop_at(last):
    steps = iter(range(last + 1))

    def step(what):
        if next(steps) == last:
            raise StopError

    return step


def test_what_is_foreseen_is_what_happens(tmp_path):
    worn_distillation(tmp_path)
    files = sorted(tmp_path.rglob("*.parquet"))

    foreseen = foresee(tmp_path)

    assert sorted(tmp_path.rglob("*.parquet")) == files
    compacted = compact(tmp_path)
    assert (foreseen.bytes_before, foreseen.shards_removed) == (compacted.bytes_before, compacted.shards_removed)
    # what a rewritten shard takes is only about its share of tokens: each file has a head of its own
    assert foreseen.bytes_after < foreseen.bytes_before


def test_indexes_that_go_first_keep_nothing(tmp_path):
    worn_distillation(tmp_path)

    foreseen = foresee(tmp_path, list((tmp_path / INDEX_FOLDER).glob("*/*.parquet")))

    assert (foreseen.bytes_after, foreseen.shards_removed) == (0, 5)


def test_a_request_key_is_taken_out_of_a_shard_that_is_hardly_worn(tmp_path):
    shard = add_shard(tmp_path, "kept", "abcdefgh")
    add_index(tmp_path, "animals", [shard], list("bcdefgh"))
    before = contents(tmp_path)

    compact(tmp_path, without=["a"])

    assert_same_contents(contents(tmp_path), before)
    [rewritten] = tmp_path.glob("teacher_logit_shards/*/*.parquet")
    assert sorted(read_keys(rewritten)["request_key"]) == list("bcdefgh")
