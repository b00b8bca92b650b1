"""The files of a dataset version: Parquet for each split, and the JSON lines that any fine-tuning tool reads."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.datatypes import DataType, DataTypeClass

from distill_dagster.dataset.curate import KEPT_SCHEMA
from distill_dagster.prompts.splits import Split

DATASET_SCHEMA: dict[str, DataType | DataTypeClass] = {
    name: dtype for name, dtype in KEPT_SCHEMA.items() if name != "split"
}
SPLITS = (Split.TRAIN, Split.VALIDATION, Split.TEST)
HELD_OUT_FILE = f"{Split.HELD_OUT.value}.parquet"
JSONL_FILE = "distillation_train.jsonl"


class SplitFiles:
    """Writes a Parquet file for each split, and `distillation_train.jsonl`, some rows at a time."""

    def __init__(self, folder: Path, splits: Sequence[Split], *, plain: bool) -> None:
        """Args:
        folder: an empty folder about to be published.
        splits: those that get a file.
        plain: whether training lines have plain texts; they do where every prompt is a single user turn. Where one
            has a system prompt or several turns all have the conversational form, since loaders want one form a file.
        """
        self._plain = plain
        self._files = ExitStack()
        schema = _to_arrow(pl.DataFrame(schema=DATASET_SCHEMA)).schema
        self._parquet = {
            split: self._files.enter_context(
                pq.ParquetWriter(folder / f"{split.value}.parquet", schema, compression="zstd")
            )
            for split in splits
        }
        self._lines = self._files.enter_context((folder / JSONL_FILE).open("w", encoding="utf-8"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def write(self, kept: pl.DataFrame) -> None:
        """Appends rows (DATASET columns and `split`)."""
        for split, file in self._parquet.items():
            rows = kept.filter(pl.col("split") == split.value).select(list(DATASET_SCHEMA))
            if rows.height:
                file.write_table(_to_arrow(rows))
            if split is Split.TRAIN:
                self._lines.writelines(_training_lines(rows, plain=self._plain))


def splits_of(split: pl.Series) -> tuple[Split, ...]:
    """The splits that a dataset has files of: `held_out` only where it has rows.

    Args:
        split: that of each row.
    """
    return (*SPLITS, Split.HELD_OUT) if bool((split == Split.HELD_OUT.value).any()) else SPLITS


def are_single_turns(messages: pl.Series) -> bool:
    """Whether all conversations are one user turn without a system prompt."""
    return bool(messages.str.json_path_match("$[1]").is_null().all())


def _training_lines(rows: pl.DataFrame, *, plain: bool) -> Iterator[str]:
    """{"prompt", "completion"} lines of DATASET rows."""
    for messages, completion in rows.select("messages", "completion").iter_rows():
        prompt = json.loads(messages)
        if plain:
            line = {"prompt": prompt[0]["content"], "completion": completion}
        else:
            line = {"prompt": prompt, "completion": [{"role": "assistant", "content": completion}]}
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _to_arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
