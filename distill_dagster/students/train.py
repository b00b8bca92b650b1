"""Trains one student on a dataset's completions and exports it as a plain Hugging Face folder.

A checkpoint is saved in the precision its base was published in (bfloat16 for most), while training keeps float32
weights: the student is as small and as quick to load as its base, the undistilled base is saved without rounding, and
evaluation loads the very bits that a release publishes.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any, cast

import polars as pl
import torch
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.trainer_callback import PrinterCallback
from trl.trainer.sft_config import SFTConfig

from distill_dagster.errors import StudentError
from distill_dagster.jobs import PrunedBase, TrainJob, TrainResult
from distill_dagster.lifeline import Termination
from distill_dagster.process import peak_memory_bytes
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.storage import new_folder
from distill_dagster.students.bases import CALIBRATION_ROWS, Base, load_base
from distill_dagster.students.checkpoints import newest_complete_checkpoint
from distill_dagster.students.tokens import TokenisedRows, labels, tokenise
from distill_dagster.students.trainer import CompletionTrainer, Reporter
from distill_dagster.teachers.local.chat_model import load_tokenizer, same_tokens, stop_ids

LISTED_IDS = 1000
CURVE_POINTS = 500


def run_train(job: TrainJob, progress: ProgressWriter, termination: Termination) -> TrainResult:
    """Trains, from the newest complete checkpoint in `job.out` where there is one, and exports.

    Raises:
        StudentError: the base cannot be used, or no row is left to train on.
        SystemExit: SIGTERM came; a checkpoint was saved.
    """
    set_seed(job.seed)
    ref = job.base.model if isinstance(job.base, PrunedBase) else job.base
    tokenizer = load_tokenizer(ref, StudentError)
    train, validation = read_rows(job, tokenizer)
    base = load_base(job.base, calibration_rows(train))
    if isinstance(job.base, PrunedBase):
        export(base.model, tokenizer, base.stored_dtype, job.out / "base")
        cast_weights(base.model, torch.float32)
    trainer = make_trainer(job, base.model, tokenizer, train, validation)
    trainer.add_callback(Reporter(progress, termination))
    checkpoint = newest_complete_checkpoint(job.out / "checkpoints")
    started = time.monotonic()
    with termination.deferred():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - started
    if not validation.rows.is_empty() and _last_validation_step(trainer) != trainer.state.global_step:
        trainer.evaluate()
    trained = cast(Any, trainer.model)
    model = cast(PreTrainedModel, trained.merge_and_unload() if job.lora else trained)
    export(model, tokenizer, base.stored_dtype, job.out / "student")
    return result(trainer, base, train, seconds)


def read_rows(job: TrainJob, tokenizer: PreTrainedTokenizerBase) -> tuple[TokenisedRows, TokenisedRows]:
    """The training and validation rows, tokenised.

    Raises:
        StudentError: no training row fits.
    """
    stored = job.teacher is not None and same_tokens(load_tokenizer(job.teacher, StudentError), tokenizer)
    train, validation = (
        tokenise(
            pl.read_parquet(job.dataset / f"{split}.parquet"),
            tokenizer,
            use_stored_ids=stored,
            max_length=job.max_length,
        )
        for split in ("train", "validation")
    )
    if train.rows.is_empty():
        raise StudentError(
            f"no row to train on: {len(train.over_length)} are longer than max_length, {job.max_length} tokens; "
            "raise it, or widen the prompts and the curation"
        )
    return train, validation


def calibration_rows(train: TokenisedRows) -> list[list[int]]:
    """Token ids of up to `CALIBRATION_ROWS` training rows, spread evenly over the dataset's order."""
    count = min(CALIBRATION_ROWS, train.rows.height)
    picked = [index * train.rows.height // count for index in range(count)]
    return cast(list[list[int]], train.rows["input_ids"].gather(picked).to_list())


def make_trainer(
    job: TrainJob,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: TokenisedRows,
    validation: TokenisedRows,
) -> CompletionTrainer:
    """A trainer for tokenised rows, silent but for its callbacks."""
    validates = not validation.rows.is_empty()
    trainer = CompletionTrainer(
        model=model,
        args=training_arguments(job, validates=validates),
        train_dataset=_dataset(train),
        eval_dataset=_dataset(validation) if validates else None,
        processing_class=tokenizer,
        peft_config=_lora(job) if job.lora else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def training_arguments(job: TrainJob, *, validates: bool) -> SFTConfig:
    """The job's settings in TRL's words."""
    cuda = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(job.out / "checkpoints"),
        num_train_epochs=job.epochs,
        max_steps=job.max_steps if job.max_steps is not None else -1,
        learning_rate=job.learning_rate,
        lr_scheduler_type=job.lr_scheduler,
        warmup_steps=job.warmup_ratio,
        weight_decay=job.weight_decay,
        max_grad_norm=job.max_grad_norm,
        per_device_train_batch_size=job.batch_size,
        per_device_eval_batch_size=job.batch_size,
        gradient_accumulation_steps=job.gradient_accumulation,
        activation_checkpointing=False,
        bf16=uses_bf16(job.precision),
        use_cpu=not cuda,
        seed=job.seed,
        # rows come tokenised, with labels that leave out the prompt, and none is too long
        dataset_kwargs={"skip_prepare_dataset": True},
        completion_only_loss=True,
        max_length=None,
        packing=False,
        save_strategy="steps",
        save_steps=job.checkpoint_steps,
        save_total_limit=2,
        eval_strategy="epoch" if validates else "no",
        logging_strategy="steps",
        logging_steps=1,
        dataloader_pin_memory=cuda,
        disable_tqdm=True,
        report_to="none",
    )


def uses_bf16(precision: str) -> bool:
    """Whether matrix products run in bfloat16: as declared, or where the hardware multiplies it natively."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(probe()) for probe in probes if probe is not None)


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype, folder: Path) -> None:
    """Saves model, tokenizer and generation settings; greedy answers stop at every id that can end a turn.

    `folder` appears whole or not at all, and replaces what an earlier start left there. The model keeps `dtype`.
    """
    ends = sorted(stop_ids(model, tokenizer, StudentError))
    model.generation_config = cast(Any, GenerationConfig)(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
    )
    model.config.use_cache = True
    cast_weights(model, dtype)
    shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Changes the precision of all parameters, tied ones together, and of nothing else.

    `Module.to` would also round the rotary frequencies, which models keep in float32 whatever their weights are.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def result(trainer: CompletionTrainer, base: Base, train: TokenisedRows, seconds: float) -> TrainResult:
    """What training says of itself, read from the trainer's log, which outlives a resumed training."""
    log: list[dict[str, float]] = trainer.state.log_history
    steps = [entry for entry in log if "loss" in entry]
    last_epoch = [entry["loss"] for entry in steps if entry["epoch"] > steps[-1]["epoch"] - 1]
    validation = [(int(entry["step"]), entry["eval_loss"]) for entry in log if "eval_loss" in entry]
    stride = -(-len(steps) // CURVE_POINTS)
    return TrainResult(
        rows_trained=train.rows.height,
        rows_over_length=len(train.over_length),
        over_length_ids=train.over_length[:LISTED_IDS],
        steps=trainer.state.global_step,
        tokens_trained=int(sum(entry["completion_tokens"] for entry in steps)),
        train_loss=sum(last_epoch) / len(last_epoch),
        validation_loss=validation[-1][1] if validation else None,
        kept_layers=base.kept_layers,
        block_influence=base.block_influence,
        parameters=base.model.num_parameters(),
        loss_curve=[(int(entry["step"]), entry["loss"]) for entry in steps[::stride]],
        validation_curve=validation,
        measurements={
            "seconds": seconds,
            "tokens": float(sum(entry["tokens"] for entry in steps)),
            "peak_memory_bytes": float(peak_memory_bytes()),
            "threads": float(torch.get_num_threads()),
            "processors": float(os.cpu_count() or 1),
        },
    )


def _dataset(rows: TokenisedRows) -> Dataset:
    return Dataset(labels(rows.rows).to_arrow())


def _lora(job: TrainJob) -> Any:
    try:
        from peft import LoraConfig
    except ImportError:
        raise StudentError("lora needs an extra package: pip install 'distill-dagster[lora]'") from None
    assert job.lora is not None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=job.lora.r,
        lora_alpha=job.lora.alpha,
        lora_dropout=job.lora.dropout,
        target_modules=job.lora.target_modules or "all-linear",
    )


def _last_validation_step(trainer: CompletionTrainer) -> float | None:
    return next((entry["step"] for entry in reversed(trainer.state.log_history) if "eval_loss" in entry), None)
