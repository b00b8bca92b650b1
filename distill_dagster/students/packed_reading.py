"""A batch read as one sequence: what its rows share once, no row padded, all tokens in the same products of matrices.

Only attention knows of rows: it lays them side by side again, each behind the shared beginning. Every other layer of a
causal model treats tokens one by one, and on a CPU few large products are faster than many small ones.
"""

import inspect
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, unflatten
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from distill_dagster.logits.projection import CompletionBatch, can_share_prefix

ROUND_LENGTH = 64
"""In bfloat16 oneDNN prepares a product for one number of tokens, which takes several times as long as forming it once;
so that few numbers come up, a sequence is filled up to a multiple of this."""


@dataclass(frozen=True)
class Packing:
    """Where the rows of a batch lie in the one sequence that they are read as.

    The sequence is what all rows begin with, the rows one after another, and what fills it up to a round length.

    Attributes:
        shared: tokens that all rows begin with.
        places: [rows, shared + time], where each token that a row has lies in the sequence; anything at padding.
        filled: [rows, time], where no padding is, behind what is shared; in this order the rows' tokens follow.
        filling: tokens at the sequence's end that belong to no row.
    """

    shared: int
    places: Tensor
    filled: Tensor
    filling: int

    @classmethod
    def of(cls, batch: CompletionBatch, multiple: int = 1) -> "Packing":
        """Of a batch without the last token of each row, from which nothing is predicted.

        Args:
            multiple: the sequence's length becomes one of it.
        """
        shared, time = len(batch.prefix), batch.target.shape[1]
        ends = time - batch.target.int().flip(1).argmax(1, keepdim=True)
        filled = torch.arange(time - 1, device=ends.device) < ends - 1
        behind = shared + (filled.flatten().cumsum(0) - 1).clamp(min=0).view_as(filled)
        beginning = torch.arange(shared, device=ends.device).expand(len(filled), -1)
        tokens = shared + int(filled.sum())
        return cls(shared, torch.cat([beginning, behind], dim=1), filled, -tokens % multiple)

    @cached_property
    def origins(self) -> Tensor:
        """[tokens], where each token of a row is in `filled`, laid flat."""
        return self.filled.flatten().nonzero().squeeze(1)

    @cached_property
    def seen_origins(self) -> Tensor:
        """[tokens], where each token of a row is in `places`, laid flat."""
        rows, time = self.filled.shape
        offset = torch.arange(1, rows + 1, device=self.filled.device) * self.shared
        return self.origins + offset.repeat_interleave(time)[self.origins]

    @cached_property
    def sees(self) -> Tensor:
        """[time, shared + time], True where a token of a row looks: at what is shared, and back in its row."""
        shape = self.filled.shape[1], self.places.shape[1]
        return torch.ones(shape, dtype=torch.bool, device=self.places.device).tril(self.shared)

    def sequence(self, beginning: Tensor, rows: Tensor) -> Tensor:
        """[shared] and [rows, time] → [1, length], zero where it is filled up."""
        filling = beginning.new_zeros(self.filling)
        return torch.cat([beginning, rows[self.filled], filling])[None]

    def of_rows(self, sequence: Tensor) -> Tensor:
        """[length, size] → [tokens, size], those of the rows."""
        return sequence[self.shared : len(sequence) - self.filling]

    def positions(self) -> Tensor:
        """[1, length], how far each token is from its row's beginning."""
        along = torch.arange(self.places.shape[1], device=self.places.device)
        return self.sequence(along[: self.shared], along[self.shared :].expand_as(self.filled))


class _SideBySide(torch.autograd.Function):
    """A sequence [length, size] → its rows side by side, [rows, time, size], or [rows, shared + time, size].

    Only what is shared lies at several places, so that the other tokens' gradients are looked up and need no sum.
    """

    @staticmethod
    def forward(ctx: Any, sequence: Tensor, packing: Packing, with_beginning: bool) -> Tensor:
        ctx.packing, ctx.with_beginning, ctx.shape = packing, with_beginning, sequence.shape
        places = packing.places if with_beginning else packing.places[:, packing.shared :]
        return sequence.index_select(0, places.flatten()).view(*places.shape, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        packing: Packing = ctx.packing
        shared, origins = packing.shared, packing.seen_origins if ctx.with_beginning else packing.origins
        gradient = upstream.new_zeros(ctx.shape)
        if ctx.with_beginning and shared:
            torch.sum(upstream[:, :shared], 0, out=gradient[:shared])
        torch.index_select(upstream.flatten(0, 1), 0, origins, out=packing.of_rows(gradient))
        return gradient, None, None


class _InSequence(torch.autograd.Function):
    """Rows side by side, [rows, time, size], and what they share, [shared, size] → the sequence, [length, size]."""

    @staticmethod
    def forward(ctx: Any, beginning: Tensor, rows: Tensor, packing: Packing) -> Tensor:
        ctx.packing, ctx.shape = packing, rows.shape
        sequence = rows.new_zeros(packing.shared + len(packing.origins) + packing.filling, rows.shape[2])
        sequence[: packing.shared] = beginning
        torch.index_select(rows.flatten(0, 1), 0, packing.origins, out=packing.of_rows(sequence))
        return sequence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        packing: Packing = ctx.packing
        gradient = upstream.new_zeros(ctx.shape)
        gradient.flatten(0, 1).index_copy_(0, packing.origins, packing.of_rows(upstream))
        return upstream[: packing.shared], gradient, None


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, scale: float | None, dropout: float
) -> Tensor:
    """Causal attention within each row and at what is shared, of one precision.

    A head of keys and values serves several heads of queries; those come to it as one with as many more tokens, so
    that no key is copied.

    Args:
        query: [1, heads, length, size].
        key: [1, heads / some number, length, size].
        value: [1, heads / some number, length, width].
        scale: of the scores; None is 1 / sqrt(size).
        dropout: share of the weights that are dropped.

    Returns:
        [1, length, heads, width].
    """
    heads, key_heads, shared = query.shape[1], key.shape[1], packing.shared
    sharing, time = heads // key_heads, packing.filled.shape[1]
    attend = partial(scaled_dot_product_attention, dropout_p=dropout, scale=scale)
    queries, keys, values = (one.transpose(1, 2).flatten(2)[0] for one in (query, key, value))
    own = unflatten(_side_by_side(queries, packing, False), 2, (key_heads, sharing, -1)).permute(0, 2, 3, 1, 4)
    at, of = (
        unflatten(_side_by_side(one, packing, True), 2, (key_heads, -1)).transpose(1, 2) for one in (keys, values)
    )
    found = attend(own.flatten(2, 3), at, of, attn_mask=packing.sees.repeat(sharing, 1))
    found = unflatten(found, 2, (sharing, time)).permute(0, 3, 1, 2, 4).flatten(2)
    first = found[0, :0]
    if shared:
        beginning = (one[:, :, :shared] for one in (query, key, value))
        first = attend(*beginning, is_causal=True, enable_gqa=sharing > 1)[0].transpose(0, 1).flatten(1)
    sequence = cast(Tensor, cast(Any, _InSequence).apply(first, found, packing))
    return unflatten(sequence, 1, (heads, -1))[None]


def _side_by_side(sequence: Tensor, packing: Packing, with_beginning: bool) -> Tensor:
    return cast(Tensor, cast(Any, _SideBySide).apply(sequence, packing, with_beginning))


def can_pack(model: PreTrainedModel) -> bool:
    """Whether `packed_attention` is a model's: full, uncapped attention by torch in every layer, at told positions."""
    config = model.config.get_text_config()
    told = "position_ids" in inspect.signature(cast(Any, model).base_model.forward).parameters
    uncapped = getattr(config, "attn_logit_softcapping", None) is None
    return told and uncapped and config._attn_implementation == "sdpa" and can_share_prefix(model)


def packed_hidden_before(model: PreTrainedModel, batch: CompletionBatch, multiple: int = 1) -> Tensor:
    """As `logits.projection.hidden_before`, in one pass, by a model that `cpu_speed.quicken` has prepared.

    Args:
        multiple: the sequence is filled up to a multiple of so many tokens.
    """
    packing = Packing.of(batch, multiple)
    ids = packing.sequence(batch.prefix, batch.input_ids[:, :-1])
    unread = torch.empty(1, 1, 1, 1, dtype=torch.bool, device=ids.device)  # a mask of four dimensions is not made anew
    output = cast(Any, model).base_model(
        input_ids=ids, position_ids=packing.positions(), attention_mask=unread, use_cache=False, packing=packing
    )
    hidden = cast(Tensor, output.last_hidden_state)[0]
    return packing.of_rows(hidden)[batch.target[:, 1:][packing.filled]]
