"""Clipping by the gradients' norm inside AdamW's own pass over them.

Clipping apart from it reads all gradients for their norm, then reads and writes them all again. The optimizer divides
by its `grad_scale` while it reads them anyway.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_SMALL = 1e-6  # as in torch's `clip_grad_norm_`, which divides by norm + this


def can_clip_in_step(optimizer: Any, parameters: Iterable[nn.Parameter]) -> bool:
    """Whether an optimizer is torch's fused AdamW on a CPU, and every gradient dense, without gaps and in float32."""
    fused = isinstance(optimizer, torch.optim.AdamW) and all(group["fused"] for group in optimizer.param_groups)
    gradients = [one.grad for one in parameters if one.grad is not None]
    return fused and all(
        one.layout is torch.strided and one.is_contiguous() and one.device.type == "cpu" and one.dtype is torch.float32
        for one in gradients
    )


def clip_in_step(optimizer: torch.optim.AdamW, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Has the next step take gradients as if they had been clipped; returns their norm before, over all of them.

    Args:
        max_norm: the largest norm they may have; larger ones are scaled down to it.
    """
    norm = gradient_norm(parameters)
    optimizer.grad_scale = ((norm + _SMALL) / max_norm).clamp(min=1.0)  # type: ignore[attr-defined]
    return norm


def clip_before_step(optimizer: Any) -> None:
    """Has the next steps take gradients as they are again: somebody else clips them."""
    vars(optimizer).pop("grad_scale", None)


@torch.no_grad()
def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The Euclidean norm over all gradients, by products of vectors: twice as fast as `vector_norm` on a CPU."""
    flat = [one.grad.view(-1) for one in parameters if one.grad is not None]
    return torch.stack([one.dot(one) for one in flat]).sum().sqrt() if flat else torch.zeros(())
