"""A batch read as one sequence: what its rows share once, no padding, and all tokens in the same products of matrices.

Only attention knows of rows: it lays them side by side again, each behind the shared beginning. Every other layer of a
causal model treats tokens one by one, and on a CPU few large products are faster than many small ones.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from distill_dagster.logits.projection import CompletionBatch, can_share_prefix

Attention = Callable[..., tuple[Tensor, None]]
"""What transformers calls an attention interface: (module, query, key, value [batch, heads, time, size], mask,
**settings) → [batch, time, heads, size]."""


@dataclass(frozen=True)
class Packing:
    """Where the rows of a batch lie in the one sequence [shared + tokens] that they are read as.

    Attributes:
        shared: tokens that all rows begin with, at the front.
        places: [rows, time], where each token of a row lies behind them; anything at padding.
        filled: [rows, time], where no padding is; in this order the rows' tokens follow each other.
        origins: [tokens], where each of them is in `filled`, laid flat.
    """

    shared: int
    places: Tensor
    filled: Tensor
    origins: Tensor

    @classmethod
    def of(cls, batch: CompletionBatch) -> "Packing":
        """Of a batch without the last token of each row, from which nothing is predicted."""
        time = batch.target.shape[1]
        ends = time - batch.target.int().flip(1).argmax(1, keepdim=True)
        filled = torch.arange(time - 1, device=ends.device) < ends - 1
        places = (filled.flatten().cumsum(0) - 1).clamp(min=0).view_as(filled)
        return cls(len(batch.prefix), places, filled, filled.flatten().nonzero().squeeze(1))

    def positions(self) -> Tensor:
        """[1, shared + tokens], how far each token is from its row's beginning."""
        shared = torch.arange(self.shared, device=self.places.device)
        behind = self.shared + torch.arange(self.places.shape[1], device=self.places.device)
        return torch.cat([shared, behind.expand_as(self.places)[self.filled]])[None]

    def rows_of(self, packed: Tensor) -> Tensor:
        """[1, heads, shared + tokens, size] → [rows, heads, time, size]."""
        return cast(Tensor, cast(Any, _SideBySide).apply(packed, self))

    def with_beginning(self, packed: Tensor) -> Tensor:
        """[1, heads, shared + tokens, size] → [rows, heads, shared + time, size]."""
        beginning = packed[:, :, : self.shared].expand(len(self.places), -1, -1, -1)
        return torch.cat([beginning, self.rows_of(packed)], dim=2)

    def in_sequence(self, rows: Tensor) -> Tensor:
        """[rows, time, heads, size] → [tokens, heads, size]; the inverse of `rows_of`."""
        return cast(Tensor, cast(Any, _InSequence).apply(rows, self))

    def sees(self) -> Tensor:
        """[time, shared + time], True where a token of a row looks: at what is shared, and back in its row."""
        time = self.places.shape[1]
        return torch.ones(time, self.shared + time, dtype=torch.bool, device=self.places.device).tril(self.shared)


class _SideBySide(torch.autograd.Function):
    """`Packing.rows_of`. No token lies at two places, so that its gradient is looked up and need not be summed."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, packing: Packing) -> Tensor:
        ctx.packing, ctx.shape = packing, packed.shape
        return packed[0, :, packing.shared :][:, packing.places].transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        packing: Packing = ctx.packing
        gradient = upstream.new_empty(ctx.shape)
        gradient[0, :, : packing.shared] = 0
        gradient[0, :, packing.shared :] = upstream.transpose(0, 1).flatten(1, 2).index_select(1, packing.origins)
        return gradient, None


class _InSequence(torch.autograd.Function):
    """`Packing.in_sequence`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, packing: Packing) -> Tensor:
        ctx.packing, ctx.shape = packing, rows.shape
        return rows.flatten(0, 1).index_select(0, packing.origins)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        gradient = upstream.new_zeros(ctx.shape)
        gradient.flatten(0, 1).index_copy_(0, ctx.packing.origins, upstream)
        return gradient, None


def can_pack(model: PreTrainedModel) -> bool:
    """Whether `pack_attention` suits a model: full attention by torch in every layer, at positions it is told."""
    backbone = cast(Any, model).base_model
    told = "position_ids" in inspect.signature(backbone.forward).parameters
    return told and model.config.get_text_config()._attn_implementation == "sdpa" and can_share_prefix(model)


def pack_attention(model: PreTrainedModel, attention: Attention, name: str) -> None:
    """Has a model's attention lay rows side by side where it is given a `packing`, and be `attention` else.

    Args:
        name: under which transformers knows it; always the same for the same `attention`.
    """

    def forward(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        packing: Packing | None = None,
        **settings: Any,
    ) -> tuple[Tensor, None]:
        if packing is None:
            return attention(module, query, key, value, mask, **settings)
        settings["is_causal"] = False
        rows, whole = packing.rows_of(query), packing.with_beginning
        output = attention(module, rows, whole(key), whole(value), packing.sees()[None, None], **settings)[0]
        parts = [packing.in_sequence(output)]
        if packing.shared:
            beginning = (one[:, :, : packing.shared] for one in (query, key, value))
            parts.insert(0, attention(module, *beginning, None, **settings | {"is_causal": True})[0][0])
        return torch.cat(parts)[None], None

    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation(name)


def packed_hidden_before(model: PreTrainedModel, batch: CompletionBatch) -> Tensor:
    """As `logits.projection.hidden_before`, in one pass; the model's attention must have been packed."""
    packing = Packing.of(batch)
    ids = torch.cat([batch.prefix, batch.input_ids[:, :-1][packing.filled]])[None]
    unread = torch.empty(1, 1, 1, 1, dtype=torch.bool, device=ids.device)  # a mask of four dimensions is not made anew
    output = cast(Any, model).base_model(
        input_ids=ids, position_ids=packing.positions(), attention_mask=unread, use_cache=False, packing=packing
    )
    return cast(Tensor, output.last_hidden_state)[0, packing.shared :][batch.target[:, 1:][packing.filled]]
