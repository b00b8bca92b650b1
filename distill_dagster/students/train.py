"""Trains one student, once for each seed, and exports the best as a plain Hugging Face folder.

A checkpoint is saved in the precision its base was published in (bfloat16 for most), while training keeps float32
weights: the student is as small and as quick to load as its base, the undistilled base is saved without rounding, and
evaluation loads the very bits that a release publishes.
"""

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, set_seed
from transformers.trainer_callback import PrinterCallback, TrainerState

from distill_dagster.errors import StudentError
from distill_dagster.jobs import PrunedBase, SeedResult, TrainJob, TrainResult
from distill_dagster.lifeline import Termination
from distill_dagster.process import peak_memory_bytes
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.storage import write_json
from distill_dagster.students.bases import CALIBRATION_ROWS, Base, load_base
from distill_dagster.students.best import BestWeights
from distill_dagster.students.checkpoints import newest_complete_checkpoint
from distill_dagster.students.cpu_speed import plain_again
from distill_dagster.students.export import cast_weights, export
from distill_dagster.students.freed_memory import KeepFreedMemory, lay_out_memory
from distill_dagster.students.learning import Learning, prepare_learning
from distill_dagster.students.reporting import STAGE, Reporter
from distill_dagster.students.trainers import make_trainer
from distill_dagster.teachers.local.chat_model import load_tokenizer

LISTED_IDS = 1000
CURVE_POINTS = 500


@dataclass(frozen=True)
class Trained:
    """A training with one seed that has ended: its student is in `folder`."""

    folder: Path
    state: TrainerState
    best_step: int
    seconds: float

    @property
    def validation_loss(self) -> float | None:
        """The lowest."""
        losses = [entry["eval_loss"] for entry in self.state.log_history if "eval_loss" in entry]
        return min(losses, default=None)


def run_train(job: TrainJob, progress: ProgressWriter, termination: Termination) -> TrainResult:
    """Trains with every seed, from the newest complete checkpoint where there is one, and exports the best.

    Raises:
        StudentError: the base cannot be used, or no row is left to train on.
        LogitsError: captured logits are missing, torn, or of another teacher.
        SystemExit: SIGTERM came; a checkpoint was saved.
    """
    ref = job.base.model if isinstance(job.base, PrunedBase) else job.base
    tokenizer = load_tokenizer(ref, StudentError)
    learning = prepare_learning(job, tokenizer, progress)
    runs, base = [], None
    for seed in job.seeds:
        set_seed(seed)
        if job.objective == "logit":
            lay_out_memory()
        base = load_base(job.base, calibration_rows(learning))
        if isinstance(job.base, PrunedBase):
            export(base.model, tokenizer, base.stored_dtype, job.out / "base")
            cast_weights(base.model, torch.float32)
        runs.append(_train(job, seed, base, tokenizer, learning, progress, termination))
    assert base is not None
    best = min(range(len(runs)), key=lambda index: (_or_infinite(runs[index].validation_loss), index))
    if runs[best].folder.is_dir():  # else an earlier start moved it already, and was killed before it could say so
        shutil.rmtree(job.out / "student", ignore_errors=True)
        os.rename(runs[best].folder, job.out / "student")
    return result(job, runs, best, base, learning)


def calibration_rows(learning: Learning) -> list[list[int]]:
    """Token ids of up to `CALIBRATION_ROWS` training rows, spread evenly over the dataset's order."""
    rows = learning.train.rows
    count = min(CALIBRATION_ROWS, rows.height)
    picked = [index * rows.height // count for index in range(count)]
    return cast(list[list[int]], rows["input_ids"].gather(picked).to_list())


def _train(
    job: TrainJob,
    seed: int,
    base: Base,
    tokenizer: PreTrainedTokenizerBase,
    learning: Learning,
    progress: ProgressWriter,
    termination: Termination,
) -> Trained:
    work = job.out / "checkpoints" / f"seed-{seed}"
    folder, done = work / "student", work / "done.json"
    if done.is_file():  # an earlier start finished this seed
        return _finished(folder, done)
    trainer = make_trainer(job, seed, base.model, tokenizer, learning, work)
    trainer.remove_callback(PrinterCallback)
    best = BestWeights(work, job.patience)
    trainer.add_callback(best)
    if job.objective == "logit":  # elsewhere logits of whole batches differ in size, and kept ones would double memory
        trainer.add_callback(KeepFreedMemory(bf16=trainer.args.bf16))
    stage = STAGE if len(job.seeds) == 1 else f"{STAGE}, seed {seed}"
    trainer.add_callback(Reporter(progress, termination, stage))
    checkpoint = newest_complete_checkpoint(work)
    started = time.monotonic()
    with termination.deferred():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - started
    if learning.validates and _last_validation_step(trainer) != trainer.state.global_step:
        trainer.evaluate()
    kept = best.restore(trainer.model, trainer.state)
    export(_plain(trainer, job), tokenizer, base.stored_dtype, folder)
    write_json(done, {"best_step": kept, "seconds": seconds, "state": _state(trainer.state)})
    return _finished(folder, done)


def _plain(trainer: Trainer, job: TrainJob) -> PreTrainedModel:
    """The model without what training put around it."""
    model = cast(Any, trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False))
    vars(model).pop("forward", None)
    plain = cast(PreTrainedModel, model.merge_and_unload() if job.lora else model)
    plain_again(plain)
    return plain


def _state(state: TrainerState) -> dict[str, Any]:
    return {"log_history": state.log_history, "global_step": state.global_step, "max_steps": state.max_steps}


def _finished(folder: Path, done: Path) -> Trained:
    content = json.loads(done.read_text(encoding="utf-8"))
    return Trained(folder, TrainerState(**content["state"]), content["best_step"], content["seconds"])


def _or_infinite(loss: float | None) -> float:
    return float("inf") if loss is None else loss


def result(job: TrainJob, runs: list[Trained], best: int, base: Base, learning: Learning) -> TrainResult:
    """What training says of itself, read from the trainer's log, which outlives a resumed training."""
    kept = runs[best]
    log: list[dict[str, float]] = kept.state.log_history
    steps = [entry for entry in log if "loss" in entry]
    last_epoch = [entry["loss"] for entry in steps if entry["epoch"] > steps[-1]["epoch"] - 1]
    stride = -(-len(steps) // CURVE_POINTS)
    train, validation = learning.train, learning.validation
    return TrainResult(
        rows_trained=train.rows.height,
        rows_over_length=len(train.over_length),
        over_length_ids=train.over_length[:LISTED_IDS],
        rows_without_target=len(train.without_target),
        without_target_ids=train.without_target[:LISTED_IDS],
        rows_validated=validation.rows.height,
        seed=job.seeds[best],
        seeds=[
            SeedResult(
                seed=seed, steps=run.state.global_step, best_step=run.best_step, validation_loss=run.validation_loss
            )
            for seed, run in zip(job.seeds, runs, strict=True)
        ],
        steps=kept.state.global_step,
        best_step=kept.best_step,
        tokens_trained=int(sum(entry.get("completion_tokens", 0) for entry in steps)),
        train_loss=sum(last_epoch) / len(last_epoch),
        validation_loss=kept.validation_loss,
        validation_measure=learning.measure,
        kept_layers=base.kept_layers,
        block_influence=base.block_influence,
        parameters=base.model.num_parameters(),
        loss_curve=[(int(entry["step"]), entry["loss"]) for entry in steps[::stride]],
        validation_curve=[(int(entry["step"]), entry["eval_loss"]) for entry in log if "eval_loss" in entry],
        measurements={
            "seconds": sum(run.seconds for run in runs),
            "tokens": float(sum(entry.get("tokens", 0) for entry in steps)),
            "peak_memory_bytes": float(peak_memory_bytes()),
            "threads": float(torch.get_num_threads()),
            "processors": float(os.cpu_count() or 1),
        },
    )


def _last_validation_step(trainer: Trainer) -> float | None:
    return next((entry["step"] for entry in reversed(trainer.state.log_history) if "eval_loss" in entry), None)
