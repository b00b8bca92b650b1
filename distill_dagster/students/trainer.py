"""TRL's SFTTrainer, with the loss formed at completion positions only and one line of progress a step."""

import time
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices
from trl.trainer.sft_trainer import SFTTrainer

from distill_dagster.lifeline import Termination
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.students.projection import hidden_before, negative_log_likelihood

STAGE = "training"


class EpochSampler(LengthGroupedSampler):
    """Groups rows of similar length, in an order that depends on seed and epoch alone.

    The library's own sampler draws from the global generator, so that a resumed epoch would see another order.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        return iter(cast(Any, get_length_grouped_indices)(self.lengths, self.batch_size, generator=generator))


class CompletionTrainer(SFTTrainer):
    """SFTTrainer with another road to the same loss.

    The loss is Σ −log q(token) over completion tokens / their number in the whole accumulation window. TRL's fused head
    scores every position in float32 where it has no GPU kernel; here prompt positions are dropped before the head.
    Half the time of a step on a CPU goes with that. Several processes, or a mixture of experts with an auxiliary loss,
    take TRL's road.

    Every log entry of training also counts `completion_tokens`, so that the count outlives a resumed training.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._seen = {"completion_tokens": 0, "tokens": 0}
        super().__init__(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss of a batch; `num_items_in_batch` is the accumulation window's number of completion tokens."""
        if self._wrapped.training:
            self._seen["completion_tokens"] += int((inputs["labels"][:, 1:] != -100).sum())
            self._seen["tokens"] += int(inputs["attention_mask"].sum())
        if return_outputs or not self._alone:
            return cast(Any, super()).compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total, count = self._summed_loss(inputs)
        return total / (count if num_items_in_batch is None else num_items_in_batch)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validation loss per completion token, in nats; every token counts the same, whatever its batch."""
        if not self._alone:
            return super().evaluate(*args, **kwargs)
        self._wrapped.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for inputs in self.get_eval_dataloader():
                loss, tokens = self._summed_loss(self._prepare_inputs(inputs))
                total, count = total + float(loss), count + tokens
        metrics = {"eval_loss": total / max(count, 1)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the tokens seen since the last entry."""
        if "loss" in logs:
            logs |= self._seen
            self._seen = dict.fromkeys(self._seen, 0)
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(row) for row in cast(Any, dataset)["input_ids"]]
        return EpochSampler(
            self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps, lengths, self.args.seed
        )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: the student's own card is made when it is published."""

    @property
    def _alone(self) -> bool:
        return self.accelerator.num_processes == 1 and not self.aux_loss_enabled

    @property
    def _wrapped(self) -> Any:
        """The model, within its adapters where it has some."""
        return self.model

    def _summed_loss(self, inputs: dict[str, Tensor]) -> tuple[Tensor, int]:
        """Summed loss and number of targets of one batch."""
        wrapped = self._wrapped
        # adapters sit inside the base model's own layers
        model = cast(PreTrainedModel, wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped)
        labels = inputs["labels"]
        target = labels != -100
        target[:, 0] = False
        with self.accelerator.autocast():
            hidden = hidden_before(model, inputs["input_ids"], inputs["attention_mask"], target)
            loss = negative_log_likelihood(model, hidden, labels[target])
        return loss, int(target.sum())


class Reporter(TrainerCallback):
    """Reports every step, and on SIGTERM has a checkpoint saved and training stopped."""

    def __init__(self, progress: ProgressWriter, termination: Termination) -> None:
        self._progress = progress
        self._termination = termination
        self._since = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Says where training begins; not at step 0 where it is resumed."""
        self._since = time.monotonic()
        self._progress.report(STAGE, state.global_step, state.max_steps, "steps")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """One line a step, and one after each validation."""
        logs = logs or {}
        if "loss" in logs:
            now = time.monotonic()
            speed = logs["tokens"] / max(now - self._since, 1e-9)
            self._since = now
            metrics = {"loss": logs["loss"], "tokens_per_second": round(speed, 1)}
            self._progress.report(STAGE, state.global_step, state.max_steps, "steps", **metrics)
        elif "eval_loss" in logs:
            self._since = time.monotonic()
            loss = logs["eval_loss"]
            self._progress.report(STAGE, state.global_step, state.max_steps, "steps", validation_loss=loss)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ends training at this step once SIGTERM has come."""
        if self._termination.requested:
            control.should_save = True
            control.should_training_stop = True
