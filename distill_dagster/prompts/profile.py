"""Small summaries of prompts, kept beside them, so that a version can be compared with the one before it.

A partition's `profile.json` has counts alone, no text: how long its prompts are, and into which buckets their words
hash, of the current version and of the one before.
"""

from collections.abc import Collection, Iterator
from itertools import starmap
from operator import add
from pathlib import Path

import polars as pl
import polars_hash as plh
from pydantic import BaseModel, ConfigDict

from distill_dagster.project import Distillation
from distill_dagster.prompts.store import ASSET, PROFILE_FILE, PartitionPrompts, prompts_file, prompts_version
from distill_dagster.storage import decode_partition, read_json, write_json

LENGTH_BINS = 96
BINS_PER_OCTAVE = 4
WORD_BUCKETS = 32
# Words are looked at in no more prompts of a partition than these, taken at even distances.
MOST_READ = 20_000
# Short words are mostly grammar. Scripts without spaces between words are taken letter by letter.
_WORD = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]|[\p{L}\p{N}]{4,}"


class Profile(BaseModel):
    """Counts of one or several partitions' prompts; sums of profiles are profiles.

    Attributes:
        rows: number of prompts.
        lengths: prompts by length; bin k holds those of 2^(k/4) - 1 to below 2^((k+1)/4) - 1 characters.
        read: prompts whose words were looked at.
        words: sum over those of the share of a prompt's words in each bucket.
        squares: sum of the squares of those shares.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = 0
    lengths: tuple[int, ...] = (0,) * LENGTH_BINS
    read: int = 0
    words: tuple[float, ...] = (0.0,) * WORD_BUCKETS
    squares: tuple[float, ...] = (0.0,) * WORD_BUCKETS

    def __add__(self, other: "Profile") -> "Profile":
        return Profile(
            rows=self.rows + other.rows,
            lengths=tuple(starmap(add, zip(self.lengths, other.lengths, strict=True))),
            read=self.read + other.read,
            words=tuple(starmap(add, zip(self.words, other.words, strict=True))),
            squares=tuple(starmap(add, zip(self.squares, other.squares, strict=True))),
        )


class PartitionProfile(BaseModel):
    """What `profile.json` says.

    Attributes:
        version: of the prompts that `now` describes; None where the source has the partition no more.
        changed_at: when the step began that changed them: UTC, ISO 8601.
        before: the version before; None where there was none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str | None
    changed_at: str
    now: Profile
    before: Profile | None = None


def profile_of(texts: pl.Series) -> Profile:
    """The counts of a partition's prompts, by their rendered text."""
    frame = texts.rename("text").to_frame()
    step = max(1, -(-frame.height // MOST_READ))
    shares = _word_shares(frame.gather_every(step))
    by_bucket = shares.group_by("bucket").agg(words=pl.col("share").sum(), squares=(pl.col("share") ** 2).sum())
    buckets = {bucket: (words, squares) for bucket, words, squares in by_bucket.iter_rows()}
    octaves = (pl.col("text").str.len_chars() + 1).log(2)
    bins = frame.select(bin=(BINS_PER_OCTAVE * octaves).floor().cast(pl.Int64).clip(0, LENGTH_BINS - 1))
    lengths = dict(bins["bin"].value_counts().iter_rows())
    return Profile(
        rows=frame.height,
        lengths=tuple(lengths.get(number, 0) for number in range(LENGTH_BINS)),
        read=shares["row"].n_unique(),
        words=tuple(round(buckets.get(number, (0.0, 0.0))[0], 6) for number in range(WORD_BUCKETS)),
        squares=tuple(round(buckets.get(number, (0.0, 0.0))[1], 6) for number in range(WORD_BUCKETS)),
    )


def keep_profile(distillation: Distillation, partition: str, prompts: PartitionPrompts, at: str) -> None:
    """Notes what a partition's prompts are about to be; to be called before they are written.

    Args:
        at: when this step began; see `PartitionProfile.changed_at`.
    """
    path = _path(distillation, partition)
    stored = _read(path)
    if stored is not None and stored.version == prompts.version:
        return
    before = stored.now if stored is not None else _profile_on_disk(distillation, partition, prompts.version)
    now = profile_of(prompts.frame["text"])
    _write(path, PartitionProfile(version=prompts.version, changed_at=at, now=now, before=before))


def retire_profiles(distillation: Distillation, present: Collection[str], at: str) -> None:
    """Notes which partitions the source has no more.

    Args:
        present: those that it has.
        at: as for `keep_profile`.
    """
    for partition, stored in profiles(distillation):
        if partition not in present and stored.version is not None:
            gone = PartitionProfile(version=None, changed_at=at, now=Profile(), before=stored.now)
            _write(_path(distillation, partition), gone)


def profiles(distillation: Distillation) -> Iterator[tuple[str, PartitionProfile]]:
    """Every partition's profile, those of vanished ones too, one at a time and sorted by folder."""
    for path in sorted(distillation.files.asset(ASSET).glob(f"*/{PROFILE_FILE}")):
        stored = _read(path)
        if stored is not None:
            yield decode_partition(path.parent.name), stored


def _word_shares(frame: pl.DataFrame) -> pl.DataFrame:
    """row, bucket, share: which part of a prompt's words falls into a bucket; shares of a prompt sum to 1."""
    words = (
        frame.with_row_index("row")
        .select("row", word=pl.col("text").str.to_lowercase().str.extract_all(_WORD))
        .explode("word")
        .drop_nulls("word")
    )
    bucket = plh.col("word").nchash.xxhash64() % WORD_BUCKETS
    counts = words.group_by("row", bucket.alias("bucket")).agg(share=pl.len().cast(pl.Float64))
    return counts.with_columns(pl.col("share") / pl.col("share").sum().over("row"))


def _profile_on_disk(distillation: Distillation, partition: str, coming: str) -> Profile | None:
    """The profile of prompts from before profiles were kept."""
    version = prompts_version(distillation, partition)
    if version is None or version == coming:
        return None
    path = prompts_file(distillation, partition, version)
    return profile_of(pl.read_parquet(path, columns=["text"])["text"])


def _path(distillation: Distillation, partition: str) -> Path:
    return distillation.files.asset(ASSET, partition) / PROFILE_FILE


def _read(path: Path) -> PartitionProfile | None:
    return PartitionProfile.model_validate(read_json(path)) if path.is_file() else None


def _write(path: Path, profile: PartitionProfile) -> None:
    write_json(path, profile.model_dump(mode="json"))
