"""Weights whose gradient is added to `.grad` by the product that forms it (Megatron: gradient accumulation fusion).

Autograd forms a weight's gradient anew wherever the weight is used, for the prompts' shared beginning and for the rows,
piece after piece, and then adds: each time a matrix as large as the weight is allocated, written and read. A product
that adds to what is there does none of that. It is for one process alone; several wait for each other's gradients in
autograd's own place.
"""

from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from distill_dagster.students.products import linear

_MARK = "distill_fused_gradient"


def fuse_gradients(model: nn.Module, head: nn.Module | None, *, products: bool) -> None:
    """Marks the head's weight for the chunked loss; with `products` every linear layer adds its gradient itself.

    Args:
        model: the whole, on one device.
        head: its output layer.
        products: whether to change the linear layers, which must then compute in their weights' precision.
    """
    if isinstance(head, nn.Linear) and head.weight.requires_grad:
        setattr(head.weight, _MARK, True)
    for layer in model.modules() if products else ():
        if type(layer) is nn.Linear and layer.weight.requires_grad:
            layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]


def part_gradients(model: nn.Module) -> None:
    """Takes back what `fuse_gradients` did."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            if getattr(vars(layer).get("forward"), "__func__", None) is _forward:
                del layer.forward
            if is_fused(layer.weight):
                delattr(layer.weight, _MARK)


def is_fused(weight: Tensor) -> bool:
    """Whether a head's gradient is to be added to `weight.grad` where it is formed."""
    return hasattr(weight, _MARK)


def _forward(layer: nn.Linear, hidden: Tensor) -> Tensor:
    return cast(Tensor, cast(Any, _Product).apply(hidden, layer.weight, layer.bias))


class _Product(torch.autograd.Function):
    """hidden · weightᵀ + bias; `backward` adds the weight's gradient to `weight.grad` and returns None for it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return linear(hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        rows = upstream.reshape(-1, upstream.shape[-1])
        columns, inputs = rows.t(), hidden.reshape(-1, hidden.shape[-1])
        if weight.grad is None:
            weight.grad = torch.mm(columns, inputs)
        else:
            weight.grad.addmm_(columns, inputs)
        for_hidden = linear(upstream, weight.t()) if ctx.needs_input_grad[0] else None
        return for_hidden, None, rows.sum(0) if ctx.needs_input_grad[2] else None
