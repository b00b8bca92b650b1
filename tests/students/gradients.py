"""The gradients of a job's first step; run as a module, those of one process among several."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from distill_dagster.errors import StudentError
from distill_dagster.jobs import TrainJob
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.students.bases import load_base
from distill_dagster.students.learning import prepare_learning
from distill_dagster.students.trainers import make_trainer
from distill_dagster.teachers.local.chat_model import load_tokenizer


class Keep(TrainerCallback):
    """Copies all gradients before the first step is made."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Keeps them by parameter name."""
        inner = model.module if hasattr(model, "module") else model
        self.gradients = {name: one.grad.detach().clone() for name, one in inner.named_parameters()}
        control.should_training_stop = True


def gradients_of_one_step(job: TrainJob) -> dict[str, torch.Tensor]:
    """Runs a job's first step."""
    job.out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(job.base, StudentError)
    learning = prepare_learning(job, tokenizer, ProgressWriter(job.out / "progress.jsonl"))
    trainer = make_trainer(job, 17, load_base(job.base, []).model, tokenizer, learning, job.out / "work")
    trainer.add_callback(keep := Keep())
    trainer.train()
    return keep.gradients


if __name__ == "__main__":
    path, folder = map(Path, sys.argv[1:])
    rank = int(os.environ["RANK"])
    job = TrainJob.model_validate_json(path.read_bytes())
    gradients = gradients_of_one_step(job.model_copy(update={"out": folder / f"out-{rank}"}))
    save_file(gradients, folder / f"rank-{rank}.safetensors")
