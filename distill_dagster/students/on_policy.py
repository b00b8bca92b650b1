"""Distillation on the student's own answers: TRL's DistillationTrainer, with the teacher in memory.

Each step the student answers a batch of prompts by sampling, and is moved towards the teacher's next-token
distributions at its own tokens (https://arxiv.org/abs/2306.13649). Stored completions are not read.
"""

from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.distillation_trainer import DistillationTrainer
from trl.trainer.utils import RepeatSampler

from distill_dagster.errors import StudentError
from distill_dagster.jobs import ModelRef, TrainJob
from distill_dagster.students.tokens import TokenisedRows
from distill_dagster.students.trainers import training_settings, uses_bf16
from distill_dagster.teachers.local.chat_model import load_model, stop_ids

# TRL's weight of the teacher in the mixture: at its ends the divergence is one of the two KLs
_BETAS = {"forward_kl": 0.0, "reverse_kl": 1.0}


class PromptOrder(RepeatSampler):
    """TRL's order of prompts, made to depend on seed and epoch alone, so that a resumed epoch goes on in its own."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.generator.manual_seed(cast(int, self.seed) * 1_000_003 + epoch)


class OnPolicyTrainer(DistillationTrainer):
    """DistillationTrainer on prompts that are token ids already, so that every objective reads the very same prompt.

    Every log entry of training also counts the `completion_tokens` that were learnt from, and all `tokens` read.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._seen = {"completion_tokens": 0, "tokens": 0}
        super().__init__(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean divergence at the tokens of the student's answers."""
        if cast(Any, self.model).training:
            answered = int(inputs["completion_mask"].sum())
            self._seen["completion_tokens"] += answered
            self._seen["tokens"] += answered + int(inputs["prompt_mask"].sum())
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The same loss on the student's answers to validation prompts, drawn with the same seed every time."""
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed)
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the tokens seen since the last entry."""
        if "loss" in logs:
            logs |= self._seen
            self._seen = dict.fromkeys(self._seen, 0)
        super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: the student's own card is made when it is published."""

    def _get_train_sampler(self, dataset: Dataset | None = None) -> PromptOrder:
        """Every batch of prompts is answered once, and read again for each step of the accumulation window."""
        rows = cast(Dataset, self.train_dataset if dataset is None else dataset)
        args, devices = self.args, self.accelerator.num_processes
        return PromptOrder(
            rows,
            mini_repeat_count=1,
            batch_size=args.per_device_train_batch_size * devices * args.gradient_accumulation_steps,
            repeat_count=args.gradient_accumulation_steps,
            seed=args.seed,
        )

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Token ids, images and other inputs of a batch's prompts."""
        return prompts, None, {}


def make_on_policy_trainer(
    job: TrainJob,
    seed: int,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    train: TokenisedRows,
    validation: TokenisedRows,
    work: Path,
) -> OnPolicyTrainer:
    """A trainer of a model, within its adapters where it has some; its checkpoints go to `work`.

    A batch that the last rows of an epoch do not fill is left out of it; rows are shuffled anew each epoch.

    Args:
        job: with a teacher whose tokens are the student's (`prepare_learning` sees to that).

    Raises:
        StudentError: too few rows for a step, or the teacher cannot be loaded or compared with the student.
    """
    rows_a_step = job.batch_size * job.gradient_accumulation
    if train.rows.height < rows_a_step:
        raise StudentError(
            f"a step takes {rows_a_step} prompts (batch_size × gradient_accumulation) and there are "
            f"{train.rows.height}; lower one of the two, or add prompts"
        )
    if job.teacher is None:
        raise StudentError("objective on_policy needs a local teacher in memory; a hosted one gives completions only")
    inner = cast(PreTrainedModel, model.get_base_model() if hasattr(model, "get_base_model") else model)
    assert inner.generation_config is not None
    inner.generation_config.eos_token_id = sorted(stop_ids(inner, tokenizer, StudentError))
    validates = not validation.rows.is_empty()
    args = DistillationConfig(
        **training_settings(job, seed, work, validates=validates),
        activation_checkpointing=False,
        beta=_BETAS.get(job.divergence, job.beta),
        temperature=job.temperature,
        max_completion_length=job.max_completion_tokens,
    )
    args._n_gpu = min(1, args.n_gpu)  # one device a process
    dtype = torch.bfloat16 if uses_bf16(job.precision) else torch.float32
    return OnPolicyTrainer(
        model=model,
        teacher_model=load_matching_teacher(job.teacher, inner, dtype),
        args=args,
        train_dataset=_prompts(train),
        eval_dataset=_prompts(validation) if validates else None,
        processing_class=tokenizer,
    )


def load_matching_teacher(ref: ModelRef, student: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The teacher with a head as long as the student's; what is cut off is padding, since their tokens are the same.

    Raises:
        StudentError: it cannot be loaded, or its head is the shorter one.
    """
    teacher = load_model(ref, dtype, StudentError)
    teachers, students = (cast(int, one.config.get_text_config().vocab_size) for one in (teacher, student))
    if teachers < students:
        raise StudentError(
            f"{ref.source}: its head has {teachers} rows and the student's {students}, which on_policy cannot compare; "
            "take a base with a head no longer than the teacher's, or write `objective: logit`"
        )
    if teachers > students:
        cast(Any, teacher).resize_token_embeddings(students)
    return teacher


def _prompts(rows: TokenisedRows) -> Dataset:
    return Dataset.from_dict({"prompt": [rows.prompt(position) for position in range(rows.rows.height)]})
