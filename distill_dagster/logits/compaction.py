"""Takes out of the shards what no version of any partition refers to any more."""

import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import polars as pl

from distill_dagster.logits.index import INDEX_FOLDER, Index, read_index, replace_index
from distill_dagster.logits.shards import (
    SHARDS_FOLDER,
    is_whole,
    read_info,
    read_keys,
    read_sequences,
    shards_folder,
    write_shard,
)
from distill_dagster.logits.sparse import Sequence

LIVE_SHARE = 0.75
NEW_SHARD_BYTES = 64 << 20

Step = Callable[[str], None]


@dataclass(frozen=True)
class Compacted:
    """What a compaction did.

    Attributes:
        bytes_before, bytes_after: of all shards and leftovers.
        shards_removed: files that are gone, the rewritten ones included.
    """

    bytes_before: int
    bytes_after: int
    shards_removed: int


@dataclass(frozen=True)
class _Worn:
    """A shard to rewrite: its live rows, ascending, and about how many bytes they take."""

    path: Path
    rows: list[int]
    live_bytes: int


def compact(distillation: Path, step: Step = lambda what: None, without: Collection[str] = frozenset()) -> Compacted:
    """Rewrites shards of whose tokens less than `LIVE_SHARE` are referred to, and removes those nobody refers to.

    New shards are written first, then the indexes that point into the old ones, and the old ones are removed last: a
    kill at any point leaves every index readable, and the next compaction finishes the work. Versions stay what they
    are, since places are no part of them. Nothing may capture or train in this distillation meanwhile.

    Args:
        distillation: the distillation's folder.
        step: called before every change on disk, with what it is; an exception from it ends the compaction there.
        without: request keys whose shards are rewritten whatever share of them is live, so that no file has them
            afterwards; no index may refer to them.

    Raises:
        LogitsError: an index or a live shard is damaged; nothing that is referred to has been removed.
    """
    before = _bytes(distillation)
    indexes = {path: read_index(path) for path in sorted((distillation / INDEX_FOLDER).glob("*/*.parquet"))}
    live = _live_rows(distillation, indexes)
    unused, worn = _worn_shards(distillation, live, without)
    moved = [_rewrite(group, step) for group in _grouped(worn)]
    if moved:
        _repoint(distillation, indexes, pl.concat(moved), step)
    for path in [*unused, *(shard.path for shard in worn), *_leftovers(distillation)]:
        step(f"remove {path.name}")
        path.unlink()
    for folder in (distillation / SHARDS_FOLDER).glob("*"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return Compacted(before, _bytes(distillation), len(unused) + len(worn))


def foresee(distillation: Path, without: Collection[Path] = ()) -> Compacted:
    """About what `compact` would do; nothing is changed. What stays of a rewritten shard is taken by its tokens.

    Args:
        without: indexes that go first.

    Raises:
        LogitsError: an index or a live shard is damaged.
    """
    paths = (path for path in sorted((distillation / INDEX_FOLDER).glob("*/*.parquet")) if path not in without)
    unused, worn = _worn_shards(distillation, _live_rows(distillation, {path: read_index(path) for path in paths}))
    before = _bytes(distillation)
    freed = sum(path.stat().st_size for path in [*unused, *_leftovers(distillation)])
    freed += sum(shard.path.stat().st_size - shard.live_bytes for shard in worn)
    return Compacted(before, before - freed, len(unused) + len(worn))


def _live_rows(distillation: Path, indexes: dict[Path, Index]) -> dict[Path, list[int]]:
    """The rows of each shard, ascending, that any index refers to."""
    rows: dict[Path, set[int]] = {}
    for index in indexes.values():
        folder = shards_folder(distillation, index.identity)
        for shard, part in index.frame.group_by("shard"):
            rows.setdefault(folder / str(shard[0]), set()).update(part["row"])
    return {path: sorted(found) for path, found in rows.items()}


def _worn_shards(
    distillation: Path, live: dict[Path, list[int]], without: Collection[str] = frozenset()
) -> tuple[list[Path], list[_Worn]]:
    """Shards that nobody refers to, and those to rewrite."""
    unused, worn = [], []
    for path in sorted((distillation / SHARDS_FOLDER).glob("*/*.parquet")):
        if path not in live:
            unused.append(path)
            continue
        size = path.stat().st_size
        if not is_whole(path, size):
            continue  # torn: captured again by the next run, and referred to by nobody after that
        keys = read_keys(path)
        tokens = keys["tokens"].to_numpy()
        rows = [row for row in live[path] if row < len(tokens)]
        share = float(tokens[rows].sum() / max(tokens.sum(), 1))
        if share < LIVE_SHARE or keys["request_key"].is_in(list(without)).any():
            worn.append(_Worn(path, rows, round(size * share)))
    return unused, worn


def _grouped(worn: list[_Worn]) -> Iterator[list[_Worn]]:
    """Shards of one identity that become one new shard together."""
    group: list[_Worn] = []
    for shard in worn:
        full = sum(one.live_bytes for one in group) + shard.live_bytes > NEW_SHARD_BYTES
        if group and (full or shard.path.parent != group[0].path.parent):
            yield group
            group = []
        group.append(shard)
    if group:
        yield group


def _rewrite(group: list[_Worn], step: Step) -> pl.DataFrame:
    """Writes the live rows of some shards into a new one; returns where each row went."""
    folder = group[0].path.parent
    info = read_info(group[0].path)
    new = folder / f"compacted-{uuid.uuid4().hex[:12]}.parquet"
    sequences: Iterator[Sequence] = chain.from_iterable(
        read_sequences(shard.path, info.identity, shard.rows) for shard in group
    )
    step(f"write {new.name}")
    write_shard(new, info.identity, info.vocabulary, sequences)
    old = [(folder.name, shard.path.name, row) for shard in group for row in shard.rows]
    moved = pl.DataFrame(old, schema={"folder": pl.String, "shard": pl.String, "row": pl.Int32}, orient="row")
    return moved.with_columns(
        pl.lit(new.name).alias("new_shard"),
        pl.int_range(pl.len(), dtype=pl.Int32).alias("new_row"),
        pl.lit(new.stat().st_size).alias("new_bytes"),
    )


def _repoint(distillation: Path, indexes: dict[Path, Index], moved: pl.DataFrame, step: Step) -> None:
    """Lets indexes refer to the new places of what has moved."""
    for path, index in indexes.items():
        here = moved.filter(pl.col("folder") == shards_folder(distillation, index.identity).name)
        joined = index.frame.join(here, on=["shard", "row"], how="left", maintain_order="left")
        if joined["new_shard"].null_count() == len(joined):
            continue
        frame = joined.with_columns(
            pl.coalesce("new_shard", "shard").alias("shard"), pl.coalesce("new_row", "row").alias("row")
        )
        sizes = {**index.sizes, **dict(here.select("new_shard", "new_bytes").unique().iter_rows())}
        step(f"point {path.name} elsewhere")
        replace_index(path, replace(index, frame=frame, sizes=sizes))


def _leftovers(distillation: Path) -> list[Path]:
    """Files that a killed writer left beside shards and indexes."""
    folders = (distillation / SHARDS_FOLDER, distillation / INDEX_FOLDER)
    return sorted(path for folder in folders for path in folder.glob("*/.*.tmp") if path.is_file())


def _bytes(distillation: Path) -> int:
    files = chain((distillation / SHARDS_FOLDER).glob("*/*.parquet"), _leftovers(distillation))
    return sum(path.stat().st_size for path in files)
