"""Curates the answers of one partition after another, and gives the kept ones back in order, flat in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from distill_dagster.dataset.curate import KEPT_SCHEMA, ROW, Curated, Curation, with_assessment
from distill_dagster.dataset.files import are_single_turns
from distill_dagster.errors import DatasetError, StorageError
from distill_dagster.lineage.hashing import VersionHash
from distill_dagster.project import Distillation
from distill_dagster.prompts.splits import Split
from distill_dagster.prompts.store import prompts_file, read_prompts
from distill_dagster.spill import Spill

# Prompts that are put in order together.
RANGE_PROMPTS = 16_384
# Partition and request key are left out: cutting the prompts into other partitions trains nothing again.
VERSION_COLUMNS = (
    "prompt_id",
    "sample",
    "split",
    "group_id",
    "messages",
    "completion",
    "completion_ids",
    "reference",
)
# Hashed only where a row has one, so that datasets without labels keep their versions.
_OPTIONAL_VERSION_COLUMNS = ("label_shares",)
_READ_COLUMNS = (
    "prompt_id",
    "sample",
    "request_key",
    "status",
    "completion",
    "thinking",
    "token_ids",
    "detail",
    "problem",
    "label",
    "label_shares",
    "selected",
)


@dataclass(frozen=True)
class Assembled:
    """The curated rows of a dataset.

    Attributes:
        curated: which rows are kept, and which are not.
        version: content hash of the kept rows.
        plain: whether all that students learn from are single user turns.
    """

    curated: Curated
    version: str
    plain: bool
    _ranges: "_Ranges"

    def rows(self) -> Iterator[pl.DataFrame]:
        """The kept rows, DATASET columns and `split`, in order of prompt_id and sample, some at a time."""
        return self._ranges.kept(self.curated.kept)


def assemble(
    distillation: Distillation, prompts: Mapping[str, str], outputs: Mapping[str, str], golden: pl.DataFrame | None
) -> Assembled:
    """Curates the answers of some partitions.

    Args:
        prompts, outputs: versions by partition; those of `outputs` are taken.
        golden: as `Curation` wants it.

    Raises:
        DatasetError: one prompt is in two partitions, or prompts are from before other partitions were held out.
        StorageError: an input's file is gone.
    """
    ranges = _Ranges(_checked_ids(distillation, {name: prompts[name] for name in outputs}))
    curation = Curation(distillation.spec.curation, golden)
    for partition, version in outputs.items():
        asked = read_prompts(distillation, partition, prompts[partition])
        kept = curation.add(asked, _read_outputs(distillation, partition, version))
        ranges.add(kept)
    curated = curation.finish(ranges.questions)
    plain, labelled, total = True, False, VersionHash(VERSION_COLUMNS)
    for rows in ranges.kept(curated.kept):
        plain = plain and are_single_turns(rows.filter(pl.col("split") == Split.TRAIN.value)["messages"])
        labelled = labelled or rows["label_shares"].null_count() < rows.height
        total.add(rows)
    if labelled:
        total = VersionHash([*VERSION_COLUMNS, *_OPTIONAL_VERSION_COLUMNS])
        for rows in ranges.kept(curated.kept):
            total.add(rows)
    return Assembled(curated, total.version, plain, ranges)


class _Ranges:
    """Rows put aside by ranges of prompt_id."""

    def __init__(self, prompt_ids: pl.Series) -> None:
        """Args:
        prompt_ids: of all prompts, sorted.
        """
        self._starts = prompt_ids.gather_every(RANGE_PROMPTS)
        self._names = [str(number) for number in range(1, len(self._starts) + 1)]
        self._spill = Spill(KEPT_SCHEMA)

    def add(self, rows: pl.DataFrame) -> None:
        """Takes KEPT columns."""
        named = rows.with_columns(range=self._starts.search_sorted(rows["prompt_id"], side="right").cast(pl.String))
        parts = named.partition_by("range", as_dict=True, include_key=False)
        self._spill.add({str(name): part for (name,), part in parts.items()})

    def kept(self, kept: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Those of the rows that stay, in order, a range at a time.

        Args:
            kept: prompt_id, sample, sorted.
        """
        for rows, own in self._with(kept.select(ROW)):
            yield rows.join(own, on=ROW, how="semi").sort(ROW)

    def questions(self, prompt_ids: pl.Series) -> Iterator[pl.DataFrame]:
        """prompt_id, split, text, student_messages of some prompts, a range at a time."""
        for rows, own in self._with(prompt_ids.sort().to_frame("prompt_id")):
            asked = rows.select("prompt_id", "split", "text", student_messages="messages")
            yield asked.join(own, on="prompt_id", how="semi").unique("prompt_id")

    def _with(self, wanted: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """The rows of each range, and what is wanted of it.

        Args:
            wanted: sorted by prompt_id; a range without any is passed over.
        """
        places = wanted["prompt_id"].search_sorted(self._starts, side="left").to_list()
        for name, start, end in zip(self._names, places, [*places[1:], wanted.height], strict=True):
            if end > start:
                yield self._spill.of(name), wanted.slice(start, end - start)


def _checked_ids(distillation: Distillation, versions: Mapping[str, str]) -> pl.Series:
    """The ids of all prompts, sorted."""
    files = [prompts_file(distillation, partition, version) for partition, version in versions.items()]
    prompts = pl.scan_parquet(files, cache=False)
    ids = prompts.select("prompt_id").collect()["prompt_id"].sort()
    twice = ids.filter(ids == ids.shift())
    if len(twice):
        of_first = prompts.filter(pl.col("prompt_id") == twice[0]).select("partition").collect()
        places = " and ".join(map(repr, of_first["partition"]))
        raise DatasetError(
            f"{distillation.name}: prompt {twice[0]!r} is in partitions {places}; "
            "one of them is from an older source, so materialise `prompts` for both"
        )
    _check_splits(distillation, prompts.select("partition", "split").unique().collect())
    return ids


def _check_splits(distillation: Distillation, prompts: pl.DataFrame) -> None:
    """Prompts that were made before the declaration changed would put held-out rows into training.

    Args:
        prompts: partition, split.
    """
    is_declared = pl.col("partition").is_in(distillation.spec.evaluation.held_out_partitions)
    wrong = prompts.filter(is_declared != (pl.col("split") == Split.HELD_OUT.value))
    if not wrong.is_empty():
        listed = ", ".join(wrong["partition"].unique().sort())
        raise DatasetError(
            f"{distillation.name}: the prompts of {listed} are from before evaluation.held_out_partitions was changed; "
            "materialise `prompts` and `teacher_outputs` there first"
        )


def _read_outputs(distillation: Distillation, partition: str, version: str) -> pl.DataFrame:
    path = distillation.files.asset("teacher_outputs", partition) / f"{version}.parquet"
    if not path.is_file():
        raise StorageError(f"{path}: missing, though it is the current version; materialise `teacher_outputs` again")
    return with_assessment(pl.read_parquet(path)).select(_READ_COLUMNS)
