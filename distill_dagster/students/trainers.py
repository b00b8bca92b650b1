"""Makes the training loop that a job's objective asks for."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from distill_dagster.errors import StudentError
from distill_dagster.jobs import TrainJob
from distill_dagster.students.learning import Learning


def make_trainer(
    job: TrainJob,
    seed: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    learning: Learning,
    work: Path,
) -> Trainer:
    """A trainer for tokenised rows; its checkpoints go to `work`.

    TRL is loaded only for the objectives that stand on it.
    """
    trained: Any = _with_lora(model, job) if job.lora else model
    if learning.objective is None:
        from distill_dagster.students.on_policy import make_on_policy_trainer

        return make_on_policy_trainer(job, seed, trained, tokenizer, learning.train, learning.validation, work)
    settings = training_settings(job, seed, work, validates=learning.validates)
    args: Any
    loop: Any
    if job.objective == "sft":
        from distill_dagster.students.completion_trainer import CompletionTrainer, completion_settings

        args, loop = completion_settings(settings), CompletionTrainer
    else:
        from distill_dagster.students.trainer import LogitTrainer

        args, loop = TrainingArguments(**settings), LogitTrainer
    args._n_gpu = min(1, args.n_gpu)  # one device a process: the loop's own way of using several copies logits around
    trainer = loop.over(model=trained, args=args, tokenizer=tokenizer, learning=learning, batch_tokens=job.batch_tokens)
    assert isinstance(trainer, Trainer)
    return trainer


def training_settings(job: TrainJob, seed: int, work: Path, *, validates: bool) -> dict[str, Any]:
    """The job's settings in the words of `TrainingArguments`."""
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(work),
        "num_train_epochs": job.epochs,
        "max_steps": job.max_steps if job.max_steps is not None else -1,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": job.lr_scheduler,
        "warmup_steps": job.warmup_ratio,
        "weight_decay": job.weight_decay,
        "max_grad_norm": job.max_grad_norm,
        "per_device_train_batch_size": job.batch_size,
        "per_device_eval_batch_size": job.batch_size,
        "gradient_accumulation_steps": job.gradient_accumulation,
        "bf16": uses_bf16(job.precision),
        "use_cpu": not cuda,
        "seed": seed,
        "save_strategy": "steps",
        "save_steps": job.checkpoint_steps,
        "save_total_limit": 2,
        "eval_strategy": "epoch" if validates else "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "dataloader_pin_memory": cuda,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": "none",
    }


def uses_bf16(precision: str) -> bool:
    """Whether matrix products run in bfloat16: as declared, or where the hardware multiplies it natively."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(probe()) for probe in probes if probe is not None)


def _with_lora(model: PreTrainedModel, job: TrainJob) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise StudentError("lora needs an extra package: pip install 'distill-dagster[lora]'") from None
    assert job.lora is not None
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=job.lora.r,
        lora_alpha=job.lora.alpha,
        lora_dropout=job.lora.dropout,
        target_modules=job.lora.target_modules or "all-linear",
    )
    return get_peft_model(model, config)
