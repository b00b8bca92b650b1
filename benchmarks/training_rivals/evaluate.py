"""Full-vocabulary forward KL and top-1 agreement of trained students on the held-out rows, teacher and all in float32.

    python -m benchmarks.training_rivals.evaluate WORK OUT NAME=FOLDER…

Teacher-forced on the teacher's stored tokens. OUT gets a row for each student and held-out row: name, prompt_id,
group_id, tokens, kl_sum and top1_hits.
"""

import json
import sys
from pathlib import Path

import polars as pl
import torch

from benchmarks.training_rivals.setting import MAX_LENGTH, TEACHER, THREADS
from distill_dagster.evaluation.fidelity import measure_model, read_teacher
from distill_dagster.jobs import ModelRef
from distill_dagster.teachers.local.chat_model import load_chat_model


def main() -> None:
    work, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(THREADS)
    rows = pl.read_parquet(work / "held_out.parquet")
    teacher = load_chat_model(ModelRef(source=str(TEACHER)), "float32")
    states = read_teacher(teacher, rows, out.with_suffix(".states"), lambda done, total: None)
    assert states is not None
    frames = []
    for name, _, folder in (argument.partition("=") for argument in sys.argv[3:]):
        student = load_chat_model(ModelRef(source=folder), "float32")
        measured, _ = measure_model(states, student, rows, MAX_LENGTH, lambda done, total: None)
        frames.append(measured.with_columns(name=pl.lit(name)))
    fidelity = pl.concat(frames).join(rows.select("prompt_id", "sample", "group_id"), on=["prompt_id", "sample"])
    fidelity.sort("name", "prompt_id", "sample").write_parquet(out)
    print(json.dumps({"rows": rows.height, "students": len(frames)}))


if __name__ == "__main__":
    main()
