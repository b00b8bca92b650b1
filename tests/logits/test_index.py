"""An index's version is what is captured, wherever it lies; a file of it is replaced only where it must be."""

from dataclasses import replace

import polars as pl
import pytest

from distill_dagster.errors import LogitsError
from distill_dagster.logits.index import Index, index_path, missing_rows, read_index, write_index
from distill_dagster.logits.shards import write_shard
from tests.logits.targets import VOCABULARY, index_of, make_sequence, topk_identity

IDENTITY = topk_identity()
NAMES = ["b", "a", "c"]


@pytest.fixture
def shards(tmp_path):
    """Two shards with the same sequences."""
    folder = tmp_path / "shards"
    for shard in ("one.parquet", "two.parquet"):
        write_shard(folder / shard, IDENTITY, VOCABULARY, [make_sequence(IDENTITY, name) for name in NAMES])
    return folder


def test_an_index_comes_back_sorted_with_what_it_is_of(tmp_path, shards):
    index = index_of(IDENTITY, shards / "one.parquet")

    version = write_index(tmp_path, index, shards)

    read = read_index(index_path(tmp_path, version))
    assert (read.identity, read.vocabulary) == (IDENTITY, VOCABULARY)
    assert read.frame["prompt_id"].to_list() == ["prompt a", "prompt b", "prompt c"]
    assert read.frame["row"].to_list() == [1, 0, 2]
    assert read.frame.schema["row"] == pl.Int32
    assert read.sizes == {"one.parquet": (shards / "one.parquet").stat().st_size}
    assert read.version == version


def test_the_version_covers_content_and_identity_but_no_places(shards):
    index = index_of(IDENTITY, shards / "one.parquet")

    assert index_of(IDENTITY, shards / "two.parquet").version == index.version
    assert replace(index, frame=index.frame.reverse()).version == index.version
    assert replace(index, identity=topk_identity(tokenizer="other")).version != index.version


@pytest.mark.parametrize(
    "change",
    [
        pl.lit("other").alias("prompt_id"),
        (pl.col("sample") + 1).alias("sample"),
        pl.lit("test").alias("split"),
        pl.lit("other").alias("request_key"),
        pl.lit("other").alias("ids_hash"),
        (pl.col("tokens") + 1).alias("tokens"),
        (~pl.col("has_hidden")).alias("has_hidden"),
    ],
)
def test_any_change_of_content_is_another_version(shards, change):
    index = index_of(IDENTITY, shards / "one.parquet")

    assert replace(index, frame=index.frame.with_columns(change)).version != index.version


def test_a_version_keeps_its_places_while_its_shards_are_whole(tmp_path, shards):
    version = write_index(tmp_path, index_of(IDENTITY, shards / "one.parquet"), shards)
    content = index_path(tmp_path, version).read_bytes()

    write_index(tmp_path, index_of(IDENTITY, shards / "two.parquet"), shards)

    assert index_path(tmp_path, version).read_bytes() == content


@pytest.mark.parametrize("damage", ["shard missing", "shard torn", "index torn"])
def test_a_version_gets_new_places_where_the_old_are_gone(tmp_path, shards, damage):
    version = write_index(tmp_path, index_of(IDENTITY, shards / "one.parquet"), shards)
    damaged = index_path(tmp_path, version) if damage == "index torn" else shards / "one.parquet"
    if damage == "shard missing":
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:100])

    assert write_index(tmp_path, index_of(IDENTITY, shards / "two.parquet"), shards) == version

    read = read_index(index_path(tmp_path, version))
    assert set(read.frame["shard"]) == {"two.parquet"}
    assert missing_rows(read, shards).is_empty()


def test_rows_of_a_torn_shard_are_missing_and_others_not(shards):
    one, two = (index_of(IDENTITY, shards / name) for name in ("one.parquet", "two.parquet"))
    frame = pl.concat([one.frame.head(2), two.frame.tail(1)])
    index = Index(IDENTITY, VOCABULARY, frame, {**one.sizes, **two.sizes})
    assert missing_rows(index, shards).is_empty()

    (shards / "one.parquet").write_bytes(b"PAR1")

    assert missing_rows(index, shards).equals(frame.head(2))


def test_a_partition_may_have_nothing_captured(tmp_path, shards):
    empty = index_of(IDENTITY, shards / "one.parquet")
    version = write_index(tmp_path, replace(empty, frame=empty.frame.clear()), shards)

    read = read_index(index_path(tmp_path, version))

    assert read.frame.is_empty()
    assert read.sizes == {}


def test_a_missing_or_torn_index_is_named(tmp_path):
    with pytest.raises(LogitsError, match=r"gone\.parquet: missing"):
        read_index(tmp_path / "gone.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 half of it")
    with pytest.raises(LogitsError, match=r"torn\.parquet: torn or damaged"):
        read_index(tmp_path / "torn.parquet")


def test_another_parquet_file_is_no_index(tmp_path, shards):
    index_of(IDENTITY, shards / "one.parquet").frame.write_parquet(tmp_path / "other.parquet")

    with pytest.raises(LogitsError, match="not captured logits"):
        read_index(tmp_path / "other.parquet")
