"""The files of a dataset version: Parquet for each split, and the JSON lines that any fine-tuning tool reads."""

import json
from pathlib import Path

import polars as pl

from distill_dagster.dataset.curate import KEPT_SCHEMA
from distill_dagster.prompts.splits import Split

DATASET_SCHEMA = {name: dtype for name, dtype in KEPT_SCHEMA.items() if name != "split"}
SPLITS = (Split.TRAIN, Split.VALIDATION, Split.TEST)
HELD_OUT_FILE = f"{Split.HELD_OUT.value}.parquet"
JSONL_FILE = "distillation_train.jsonl"


def splits_of(kept: pl.DataFrame) -> tuple[Split, ...]:
    """The splits that a dataset has files of: `held_out` only where it has rows.

    Args:
        kept: rows with the column `split`.
    """
    has_held_out = bool((kept["split"] == Split.HELD_OUT.value).any())
    return (*SPLITS, Split.HELD_OUT) if has_held_out else SPLITS


def write_splits(folder: Path, kept: pl.DataFrame) -> None:
    """Writes a Parquet file for each split, and `distillation_train.jsonl`.

    Args:
        folder: an empty folder about to be published.
        kept: DATASET columns and `split`.
    """
    for split in splits_of(kept):
        rows = kept.filter(pl.col("split") == split.value).select(list(DATASET_SCHEMA))
        rows.write_parquet(folder / f"{split.value}.parquet")
        if split is Split.TRAIN:
            write_training_lines(folder / JSONL_FILE, rows)


def write_training_lines(path: Path, rows: pl.DataFrame) -> None:
    """Writes {"prompt", "completion"} lines.

    Plain texts where every prompt is a single user turn; conversational form for all rows where one has a system prompt
    or several turns, since loaders want one form a file.

    Args:
        path: the file to write.
        rows: DATASET columns.
    """
    plain = rows["messages"].str.json_path_match("$[1]").is_null().all()
    with path.open("w", encoding="utf-8") as file:
        for messages, completion in rows.select("messages", "completion").iter_rows():
            prompt = json.loads(messages)
            if plain:
                line = {"prompt": prompt[0]["content"], "completion": completion}
            else:
                line = {"prompt": prompt, "completion": [{"role": "assistant", "content": completion}]}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
