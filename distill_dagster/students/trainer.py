"""The training loop for objectives with targets at hand: the loss is formed at completion tokens only."""

from collections.abc import Callable
from functools import partial
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from distill_dagster.logits.projection import CompletionBatch, can_share_prefix, collate, hidden_before
from distill_dagster.students.batches import PIECE_TOKENS, Collator, LengthBatches, Positions, even_batches
from distill_dagster.students.clipping import can_clip_in_step, clip_before_step, clip_in_step
from distill_dagster.students.cpu_speed import quicken
from distill_dagster.students.learning import Learning
from distill_dagster.students.objectives import Objective
from distill_dagster.students.packed_reading import ROUND_LENGTH, packed_hidden_before

Inputs = dict[str, Tensor]


class CompletionLoss:
    """What the trainers add to the class they stand on, transformers' Trainer or a descendant of it.

    The loss is Σ over completion tokens / their number in the whole accumulation window and on all devices; prompt
    positions are dropped before the head. Every log entry of training also counts `completion_tokens` and `tokens`, so
    that the counts outlive a resumed training.
    """

    # the training loop then does not divide by the accumulation steps again
    loss_is_scaled_for_ga = True

    @classmethod
    def over(
        cls,
        *,
        model: Any,
        args: Any,
        tokenizer: PreTrainedTokenizerBase,
        learning: Learning,
        batch_tokens: int | None = None,
    ) -> Self:
        """A trainer of a model (within its adapters where it has some) on rows and their targets.

        Args:
            batch_tokens: cuts batches by tokens instead of rows.
        """
        assert learning.objective is not None
        rows = cls.positions(len(learning.train.lengths))
        held_out = cls.positions(len(learning.validation.lengths)) if learning.validates else None
        make = cast(Any, cls)
        trainer = make(model=model, args=args, train_dataset=rows, eval_dataset=held_out, processing_class=tokenizer)
        trainer._prepare(learning, learning.objective, batch_tokens)
        return cast(Self, trainer)

    @staticmethod
    def positions(count: int) -> Any:
        """A data set that stands for `count` rows; the collator has the rows themselves."""
        return Positions(count)

    def _prepare(self, learning: Learning, objective: Objective, batch_tokens: int | None) -> None:
        loop = cast(Any, self)
        self._objective, self._validation = objective, learning.validation
        self._seen = {"completion_tokens": 0, "tokens": 0}
        loop.model_accepts_loss_kwargs = True
        loop.args.average_tokens_across_devices = True
        self._inner = causal_model(loop.model)
        self._share = can_share_prefix(self._inner)
        alone = loop.accelerator.num_processes == 1
        on_cpu = loop.args.device.type == "cpu"
        packs = on_cpu and quicken(self._inner, bf16=loop.args.bf16, alone=alone)
        packed = partial(packed_hidden_before, multiple=ROUND_LENGTH if loop.args.bf16 else 1)
        self._hidden_before = packed if packs else hidden_before
        self._batches = LengthBatches(
            learning.train.lengths,
            rows=loop.args.per_device_train_batch_size,
            tokens=batch_tokens,
            accumulation=loop.args.gradient_accumulation_steps,
            seed=loop.args.seed,
        )
        self._collator = Collator(
            learning.train,
            objective.targets,
            share=self._share,
            epoch=lambda: self._batches.epoch,
            # several processes would have to agree on the number of pieces
            piece_tokens=PIECE_TOKENS if alone else None,
        )
        attach_loss(loop.model, self._loss)

    def get_train_dataloader(self) -> DataLoader[int]:
        """Batches of similar length."""
        loop = cast(Any, self)
        loader: DataLoader[int] = DataLoader(
            Positions(len(self._collator)),
            batch_sampler=self._batches,
            collate_fn=self._collator,
            pin_memory=loop.args.dataloader_pin_memory,
        )
        return cast("DataLoader[int]", loop.accelerator.prepare(loader))

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward pass of each piece; gradients add up. Returns the mean loss of the batch."""
        count = inputs["labels"].numel() if num_items_in_batch is None else num_items_in_batch
        step = cast(Any, super()).training_step
        return cast(Tensor, sum(step(model, piece, count) for piece in inputs["pieces"]))

    def compute_loss(
        self, model: Any, inputs: Inputs, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """A piece's part of the mean loss; `num_items_in_batch` is the window's completion tokens on all devices.

        Several devices average their gradients, so each multiplies by their number.
        """
        self._seen["completion_tokens"] += inputs["labels"].numel()
        self._seen["tokens"] += int(inputs["tokens"])
        processes = cast(Any, self).accelerator.num_processes
        return cast(Tensor, model(**inputs, scale=processes / int(num_items_in_batch)))

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """The gradients' norm, at which the step that follows clips them: by the optimizer itself, where it can."""
        loop, parameters = cast(Any, self), list(model.parameters())
        optimizer = getattr(loop.optimizer, "optimizer", loop.optimizer)  # within accelerate's wrapper
        if loop.accelerator.num_processes == 1 and can_clip_in_step(optimizer, parameters):
            return clip_in_step(optimizer, parameters, loop.args.max_grad_norm)
        clip_before_step(optimizer)
        return cast(Tensor, cast(Any, super())._clip_grad_norm(model))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validation measure per completion token, in nats; every token counts the same, whatever its batch.

        With several devices each goes through all rows, so that none has to wait for the others.
        """
        loop = cast(Any, self)
        loop.model.eval()
        with torch.no_grad(), loop.accelerator.autocast():
            metrics = {"eval_loss": self._measured()}
        loop.log(metrics)
        loop.control = loop.callback_handler.on_evaluate(loop.args, loop.state, loop.control, metrics)
        return metrics

    def _measured(self) -> float:
        rows, total, count = self._validation, 0.0, 0
        args = cast(Any, self).args
        for positions in even_batches(rows.lengths, rows=args.per_device_eval_batch_size):
            prompts = [rows.prompt(position) for position in positions]
            completions = [rows.completion(position) for position in positions]
            batch = collate(prompts, completions, share=self._share).to(args.device)
            hidden = self._hidden_before(self._inner, batch)
            total += float(self._objective.validate(self._inner, hidden, batch.labels, positions))
            count += len(hidden)
        return total / max(count, 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the tokens seen since the last entry."""
        if "loss" in logs:
            logs |= self._seen
            self._seen = dict.fromkeys(self._seen, 0)
        cast(Any, super()).log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: the student's own card is made when it is published."""

    def _loss(self, inputs: Inputs, scale: float) -> Tensor:
        batch = CompletionBatch(inputs["prefix"], inputs["input_ids"], inputs["target"])
        return self._objective.loss(self._inner, self._hidden_before(self._inner, batch), inputs, scale)


class LogitTrainer(CompletionLoss, Trainer):  # type: ignore[misc]
    """transformers' Trainer on a teacher's captured distributions."""


def causal_model(model: Any) -> PreTrainedModel:
    """The causal language model itself; adapters sit inside its layers."""
    return cast(PreTrainedModel, model.get_base_model() if hasattr(model, "get_base_model") else model)


def attach_loss(model: Any, loss: Callable[[Inputs, float], Tensor]) -> None:
    """Makes `model(target=…, scale=…, …)` give a summed loss, scaled, instead of logits.

    What wraps a model for several devices synchronises gradients only of what its own `forward` computed, so the loss
    has to be formed in there.
    """
    plain = model.forward

    def forward(*args: Any, scale: float | None = None, **kwargs: Any) -> Any:
        return plain(*args, **kwargs) if scale is None else loss(kwargs, scale)

    model.forward = forward
