"""The last layer of a language model, and its logits for a chunk of tokens at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill_dagster.errors import StudentError
from distill_dagster.logits.projection import chunks
from distill_dagster.students.fused_gradients import is_fused
from distill_dagster.students.products import linear

CHUNK_TOKENS = 256
# 2 MiB in float32 stay in a CPU's cache; elsewhere the number of launches counts
BLOCK_LOGITS_CPU, BLOCK_LOGITS = 1 << 19, 1 << 24


@dataclass(frozen=True)
class Head:
    """The last layer of a language model: logits = cap(scale · (hidden · weightᵀ + bias)).

    Attributes:
        weight: [rows, hidden].
        bias: [rows], or None.
        scale: factor of the logits.
        softcap: c where the logits are c · tanh(logits / c), or None.
        vocabulary: rows below it are tokens, the others padding, which no softmax sees.
        fused: whether a loss adds the weight's gradient to `weight.grad` as it forms it, instead of returning it.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    vocabulary: int
    fused: bool = False

    @classmethod
    def of(cls, model: PreTrainedModel, vocabulary: int) -> Self:
        """The head of a causal language model whose tokenizer has `vocabulary` tokens; its parameters are not copied.

        Raises:
            StudentError: the model's output layer is not a plain linear one.
        """
        layer = cast(Any, model).get_output_embeddings()
        if not isinstance(layer, nn.Linear):
            raise StudentError(
                f"the output layer of {type(model).__name__} is a {type(layer).__name__}; distillation from logits "
                "needs an nn.Linear there. An adapter must leave the output layer out of its target modules."
            )
        config = model.config.get_text_config()
        scale = getattr(config, "logit_scale", None)
        divisor = getattr(config, "logits_scaling", None)
        return cls(
            weight=layer.weight,
            bias=layer.bias,
            scale=(1.0 if scale is None else float(scale)) / (1.0 if divisor is None else float(divisor)),
            softcap=getattr(config, "final_logit_softcapping", None),
            vocabulary=min(vocabulary, len(layer.weight)),
            fused=is_fused(layer.weight),
        )


@dataclass(frozen=True)
class Projection:
    """Hidden states and a head, ready to be multiplied: in one precision, padding rows cut off.

    Attributes:
        hidden: [tokens, hidden].
        weight: [vocabulary, hidden].
        bias: [vocabulary], or None.
        head: where they come from.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    head: Head

    @classmethod
    def of(cls, hidden: Tensor, head: Head, vocabulary: int) -> Self:
        """In autocast's precision where that is on, as its Linear would be, else in the weight's."""
        device = hidden.device.type
        lowered = torch.is_autocast_enabled(device) and head.weight.dtype is not torch.float64
        dtype = torch.get_autocast_dtype(device) if lowered else head.weight.dtype
        return cls(
            hidden=hidden.detach().to(dtype),
            weight=head.weight.detach()[:vocabulary].to(dtype),
            bias=None if head.bias is None else head.bias.detach()[:vocabulary].to(dtype),
            head=head,
        )

    @property
    def precise(self) -> torch.dtype:
        """In which softmax and loss are computed: float32, or float64 if the products are."""
        return torch.promote_types(self.weight.dtype, torch.float32)

    def chunks(self) -> Iterator[slice]:
        """Slices of the tokens."""
        return chunks(len(self.hidden), CHUNK_TOKENS)

    def product(self, tokens: slice) -> Tensor:
        """hidden · weightᵀ + bias of a chunk, [tokens, vocabulary]; it may be overwritten."""
        return linear(self.hidden[tokens], self.weight, self.bias)

    def blocks(self, product: Tensor) -> Iterator[slice]:
        """Slices of a product's rows that fit a cache."""
        room = BLOCK_LOGITS_CPU if product.device.type == "cpu" else BLOCK_LOGITS
        return chunks(len(product), max(1, room // max(1, product.shape[1])))

    def logits(self, product: Tensor, temperature: float) -> tuple[Tensor, Tensor | None]:
        """The model's logits / temperature from some rows of a product, in `precise`; the rows may be overwritten.

        Returns:
            The logits, and the factor d capped / d uncapped that soft-capping puts on their gradient.
        """
        logits = product.to(self.precise)
        cap = self.head.softcap
        factor = self.head.scale / (temperature if cap is None else cap)
        if factor != 1.0:
            logits.mul_(factor)
        if cap is None:
            return logits, None
        slope = logits.tanh_().square().neg_().add_(1.0)
        return logits.mul_(cap / temperature), slope
