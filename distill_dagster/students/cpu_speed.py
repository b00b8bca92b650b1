"""What makes training on a CPU faster and changes no result beyond rounding."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from distill_dagster.students.fused_gradients import fuse_gradients, part_gradients
from distill_dagster.students.packed_reading import Packing, can_pack, packed_attention

ATTENTION = "distill_sdpa"


def quicken(model: PreTrainedModel, *, bf16: bool, alone: bool) -> bool:
    """Prepares a causal language model for training on a CPU.

    - Where input and output embeddings are one parameter, the gradient of the look-up stays sparse until it meets the
      head's: no second gradient as large as the vocabulary is filled and added.
    - Gradients of weights are added where they are formed (`fused_gradients`): the head's always, the other layers' in
      float32.
    - A batch is read as one sequence, no row padded (`packed_reading`), where the model allows it.
    - Attention runs in float32 under bfloat16 autocast too: torch's CPU kernel takes about twice as long in bfloat16
      at the lengths of short answers (torch 2.14).

    Args:
        bf16: whether products of matrices run in bfloat16.
        alone: whether no other process trains with this one; several exchange dense gradients.

    Returns:
        Whether batches are to be read by `packed_hidden_before`.
    """
    embedding, head = model.get_input_embeddings(), cast(Any, model).get_output_embeddings()
    if alone and isinstance(embedding, nn.Embedding) and head is not None and embedding.weight is head.weight:
        embedding.sparse = embedding.weight.requires_grad and head.weight.requires_grad
    if alone:
        fuse_gradients(model, head, products=not bf16)
    packs = can_pack(model)
    if packs or (bf16 and model.config.get_text_config()._attn_implementation == "sdpa"):
        AttentionInterface.register(ATTENTION, attention)
        AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
        model.set_attn_implementation(ATTENTION)
    return packs


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    packing: Packing | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention in float32 at least, as transformers calls it; returns the precision it was given.

    Args:
        query: [batch, heads, time, size]; key and value alike, of as many heads or fewer.
        mask: None, or [batch, 1, time, time]: True where a token looks, or what is added to scores.
        packing: of the rows that a batch of one sequence consists of; the mask is not read then.

    Returns:
        [batch, time, heads, size], and no weights.
    """
    precise = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        states = query.to(precise), key.to(precise), value.to(precise)
        if packing is None:
            added = mask if mask is None or mask.dtype is torch.bool else mask.to(precise)
            output, _ = sdpa_attention_forward(module, *states, added, **settings)
        else:
            scale, dropout = settings.get("scaling"), settings.get("dropout", 0.0)
            output = packed_attention(*states, packing, scale=scale, dropout=dropout)
        return output.to(query.dtype), None


def plain_again(model: PreTrainedModel) -> None:
    """Takes back what `quicken` did, before a model is saved or used otherwise."""
    embedding = model.get_input_embeddings()
    if isinstance(embedding, nn.Embedding):
        embedding.sparse = False
    part_gradients(model)
    if model.config.get_text_config()._attn_implementation == ATTENTION:
        model.set_attn_implementation("sdpa")
