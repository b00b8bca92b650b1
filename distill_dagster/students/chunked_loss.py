"""A loss summed over chunks of tokens, with its gradient formed beside it.

The logits of one chunk are overwritten by their gradient. Only the three products of matrices
(logits, gradient of the hidden states, gradient of the head) go over it as a whole; all else is done block by block.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill_dagster.logits.projection import chunks
from distill_dagster.students.divergences import Draws, Pull, Reference, Source
from distill_dagster.students.heads import Head, Projection
from distill_dagster.students.products import linear

# a product of another precision than the sum it is added to is formed in pieces of so many rows
PIECE_ROWS = 8192


@dataclass(frozen=True)
class LossWeights:
    """Loss of a token = divergence · D(at `temperature`) + cross_entropy · -log q(label) at temperature 1."""

    temperature: float
    divergence: float
    cross_entropy: float


def chunked_loss(
    hidden: Tensor, head: Head, student: Projection, source: Source, labels: Tensor, weights: LossWeights
) -> Tensor:
    """The loss summed over tokens, a scalar in `student.precise`; differentiable once in `hidden` and the head.

    Args:
        hidden, head: what the gradient is for; `student` was made from them.
        student: [tokens, hidden] and the head.
        source: the teacher at the same tokens.
        labels: [tokens] int64.
        weights: of the loss's two parts.
    """
    job = _Job(student, source, labels.unsqueeze(1), weights, torch.is_grad_enabled())
    return cast(Tensor, cast(Any, _ChunkedLoss).apply(hidden, head.weight, head.bias, job))


def token_losses(
    student: Projection, product: Tensor, reference: Reference, labels: Tensor, weights: LossWeights, *, gradient: bool
) -> Tensor:
    """Losses [tokens] of a chunk; its product [tokens, vocabulary] is overwritten, by the loss's gradient if asked for.

    At temperature 1 the cross-entropy shares the divergence's softmax; else it needs one of its own.
    """
    scale, one = student.head.scale, weights.temperature == 1.0
    shared = weights.cross_entropy if one else 0.0
    pull = Pull(weights.divergence / weights.temperature * scale, shared * scale) if gradient else None
    losses = []
    for rows in student.blocks(product):
        block, label = product[rows], labels[rows]
        logits, slope = student.logits(block, weights.temperature)
        hard = logits * weights.temperature if weights.cross_entropy and not one else None
        loss, surprise = reference.block(logits, rows, label, pull)
        loss.mul_(weights.divergence)
        if hard is not None:
            surprise = _cross_entropy(hard, label, weights.cross_entropy * scale if gradient else None)
        if weights.cross_entropy:
            loss.add_(surprise, alpha=weights.cross_entropy)
        losses.append(loss)
        if gradient:
            if hard is not None:
                logits.add_(hard)
            elif shared:
                logits.scatter_add_(1, label, torch.full_like(label, -shared * scale, dtype=logits.dtype))
            if slope is not None:
                logits.mul_(slope)
            if logits.dtype != block.dtype:
                block.copy_(logits)
    return torch.cat(losses)


def _cross_entropy(logits: Tensor, labels: Tensor, pull: float | None) -> Tensor:
    ids, whole = labels.squeeze(1), slice(0, len(labels))
    once = Draws.of(ids, torch.ones_like(ids, dtype=logits.dtype), torch.ones_like(ids))
    return once.block(logits, whole, labels, None if pull is None else Pull(pull, 0.0))[0]


@dataclass(frozen=True)
class _Job:
    student: Projection
    source: Source
    labels: Tensor  # [tokens, 1]
    weights: LossWeights
    gradients: bool  # whether any may be wanted; inside a Function autograd is always off


@dataclass(frozen=True)
class _Gradients:
    """Sums over chunks, None for what needs no gradient."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    adds: bool  # whether the weight's room holds a gradient already

    @property
    def needed(self) -> bool:
        return any(part is not None for part in (self.hidden, self.weight, self.bias))

    def add(self, product: Tensor, tokens: slice, student: Projection) -> None:
        """Takes in a chunk whose product has been overwritten by its gradient."""
        vocabulary, first = len(student.weight), tokens.start == 0 and not self.adds
        if self.hidden is not None:
            self.hidden[tokens] = linear(product, student.weight.t())
        if self.weight is not None:
            _add_product(self.weight[:vocabulary], product.t(), student.hidden[tokens], first=first)
        if self.bias is not None:
            self.bias[:vocabulary] += product.sum(0, dtype=self.bias.dtype)


class _ChunkedLoss(torch.autograd.Function):
    """Forms the gradients in `forward`; `backward` multiplies them by what comes from above.

    A fused weight's is added to `weight.grad` at once, and nothing may come from above then.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> Tensor:
        student, vocabulary = job.student, len(job.student.weight)
        wanted = [job.gradients and needs for needs in ctx.needs_input_grad]
        written = vocabulary if len(hidden) else 0
        fused = wanted[1] and student.head.fused and weight.dtype is student.precise
        before = weight.grad if fused else None
        sums = _Gradients(
            hidden=torch.empty_like(hidden) if wanted[0] else None,
            weight=_unwritten(weight, written, student.precise) if wanted[1] and before is None else before,
            bias=torch.zeros_like(bias, dtype=student.precise) if wanted[2] and bias is not None else None,
            adds=before is not None,
        )
        total = torch.zeros((), dtype=student.precise, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for tokens in student.chunks():
                product, reference = student.product(tokens), job.source.chunk(tokens)
                labels = job.labels[tokens]
                total += token_losses(student, product, reference, labels, job.weights, gradient=sums.needed).sum()
                sums.add(product, tokens, student)
                del product  # before the next is formed
        ctx.fused = fused
        if fused:
            weight.grad = sums.weight
        ctx.save_for_backward(
            sums.hidden,
            None if sums.weight is None or fused else sums.weight.to(weight.dtype),
            None if sums.bias is None or bias is None else sums.bias.to(bias.dtype),
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        if upstream.device.type == "cpu" and upstream.item() == 1.0:  # a copy of the head's costs as much as a product
            return (*gradients, None)
        if ctx.fused:
            raise RuntimeError("a fused gradient is complete before `backward`: scale the loss by `scale`, not after")
        return (*(None if gradient is None else gradient * upstream for gradient in gradients), None)


def _unwritten(weight: Tensor, written: int, dtype: torch.dtype) -> Tensor:
    """Room for a gradient of which the first chunk writes so many rows; zero below them."""
    room = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    room[written:].zero_()
    return room


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """total += left · right, or = for the first."""
    if total.dtype == left.dtype:
        if first:
            torch.mm(left, right, out=total)
        else:
            total.addmm_(left, right)
        return
    for rows in chunks(len(total), PIECE_ROWS):
        piece = torch.mm(left[rows], right)
        if first:
            total[rows].copy_(piece)
        else:
            total[rows].add_(piece)
