"""Splits and tokenises the demo's rows and prunes the teacher to the student's start: once, for all systems.

    python -m benchmarks.training_rivals.prepare WORK HELD_OUT_ROWS [TRAINING_ROWS]

Student and teacher read the same prompt (the student's) in these benchmarks, because GKD feeds one sequence to both.
Leaves in WORK: rows.parquet (training rows with input_ids and prompt_tokens), held_out.parquet and base/.
"""

import json
import sys
from pathlib import Path

import polars as pl

from benchmarks.training_rivals.setting import LAYERS, MAX_LENGTH, ROOT, TEACHER, held_out_groups


def dataset_folder() -> Path:
    """The demo's current dataset.

    Raises:
        SystemExit: the demo has not run.
    """
    from distill_dagster.project import find_project

    home = find_project(start=ROOT).home / "faq" / "dataset"
    pointer = home / "current.json"
    if not pointer.is_file() or not TEACHER.is_dir():
        raise SystemExit(f"no dataset of the demo in {home}, or no teacher in {TEACHER}: run `make demo` first")
    return home / str(json.loads(pointer.read_text(encoding="utf-8"))["version"])


def split_rows(held_out: int, training: int | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Training rows (at most `training` of them) and at least `held_out` rows of other groups."""
    splits = ("train", "validation", "test")
    rows = pl.concat([pl.read_parquet(dataset_folder() / f"{split}.parquet") for split in splits])
    rows = rows.sort("prompt_id", "sample").filter(pl.col("completion_ids").list.len() > 0)
    held = pl.col("group_id").is_in(sorted(held_out_groups(rows["group_id"].to_list(), held_out)))
    train = rows.filter(~held)
    return train.head(training) if training else train, rows.filter(held)


def main() -> None:
    from distill_dagster.errors import StudentError
    from distill_dagster.jobs import ModelRef, PrunedBase
    from distill_dagster.students.bases import CALIBRATION_ROWS, load_base
    from distill_dagster.students.tokens import tokenise
    from distill_dagster.teachers.local.chat_model import load_tokenizer

    work, held_out = Path(sys.argv[1]), int(sys.argv[2])
    train, held = split_rows(held_out, int(sys.argv[3]) if len(sys.argv) > 3 else None)
    teacher = ModelRef(source=str(TEACHER))
    tokenizer = load_tokenizer(teacher, StudentError)
    tokenised = tokenise(train, tokenizer, use_stored_ids=True, max_length=MAX_LENGTH)
    rows = tokenised.rows.join(train, on=["prompt_id", "sample"], how="left", maintain_order="left")
    rows.write_parquet(work / "rows.parquet")
    held.with_columns(teacher_messages=pl.col("messages")).write_parquet(work / "held_out.parquet")
    ids = rows["input_ids"].to_list()
    base = load_base(PrunedBase(model=teacher, layers=LAYERS), ids[:: -(-len(ids) // CALIBRATION_ROWS)])
    base.model.save_pretrained(work / "base")
    tokenizer.save_pretrained(work / "base")
    print(json.dumps({"training_rows": rows.height, "held_out_rows": held.height, "kept_layers": base.kept_layers}))


if __name__ == "__main__":
    main()
