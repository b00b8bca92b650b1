"""Finds where wanted completions are captured already: by the index of before, then by the keys of all shards."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from distill_dagster.errors import LogitsError
from distill_dagster.logits.index import Index
from distill_dagster.logits.shards import is_whole, read_keys

PLACES_SCHEMA = {
    "request_key": pl.String,
    "known_hash": pl.String,
    "known_tokens": pl.Int32,
    "keeps_hidden": pl.Boolean,
    "shard": pl.String,
    "row": pl.Int32,
}


class Places:
    """The captured sequences of one identity.

    All keys of all shards are read at most once, and only when an index of before does not have what is wanted.
    """

    def __init__(self, shard_folder: Path) -> None:
        self._folder = shard_folder
        self._all: pl.DataFrame | None = None

    def find(self, wanted: pl.DataFrame, before: Index | None) -> pl.DataFrame:
        """Adds `shard` and `row` to the wanted rows, null where nothing is captured; fills in ids_hash and tokens.

        Args:
            wanted: the columns of WANTED and more.
            before: an index of the same identity, whose places are tried first.
        """
        found = _placed(wanted, self._of_index(before))
        if found["shard"].null_count() == 0:
            return found
        return _placed(wanted, pl.concat([self._of_index(before), self._of_shards()]))

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes of shards by name."""
        return {name: (self._folder / name).stat().st_size for name in names}

    def forget(self) -> None:
        """To be called when shards were added or removed."""
        self._all = None

    def _of_index(self, before: Index | None) -> pl.DataFrame:
        if before is None:
            return pl.DataFrame(schema=PLACES_SCHEMA)
        whole = [name for name, size in before.sizes.items() if is_whole(self._folder / name, size)]
        rows = before.frame.filter(pl.col("shard").is_in(whole))
        return rows.rename({"ids_hash": "known_hash", "tokens": "known_tokens", "has_hidden": "keeps_hidden"}).select(
            pl.col(name).cast(kind) for name, kind in PLACES_SCHEMA.items()
        )

    def _of_shards(self) -> pl.DataFrame:
        if self._all is None:
            frames = [pl.DataFrame(schema=PLACES_SCHEMA)]
            for path in sorted(self._folder.glob("*.parquet")):
                try:
                    keys = read_keys(path)
                except LogitsError:
                    continue  # torn: what it held counts as missing
                keys = keys.rename({"ids_hash": "known_hash", "tokens": "known_tokens", "has_hidden": "keeps_hidden"})
                named = keys.with_columns(shard=pl.lit(path.name))
                frames.append(named.select(pl.col(name).cast(kind) for name, kind in PLACES_SCHEMA.items()))
            self._all = pl.concat(frames)
        return self._all


def _placed(wanted: pl.DataFrame, places: pl.DataFrame) -> pl.DataFrame:
    """The best place of each wanted row: one that keeps hidden states where they are wanted, then the first."""
    numbered = wanted.with_row_index("number")
    ranked = numbered.join(places, on="request_key", how="inner").filter(
        (pl.col("ids_hash").is_null() | (pl.col("ids_hash") == pl.col("known_hash")))
        & (~pl.col("has_hidden") | pl.col("keeps_hidden"))
    )
    chosen = ranked.unique("number", keep="first", maintain_order=True).select(
        "number", "known_hash", "known_tokens", "shard", "row"
    )
    joined = numbered.join(chosen, on="number", how="left", maintain_order="left")
    return joined.with_columns(
        ids_hash=pl.coalesce("ids_hash", "known_hash"), tokens=pl.coalesce("tokens", "known_tokens")
    ).drop("number", "known_hash", "known_tokens")
