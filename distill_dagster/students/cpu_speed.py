"""What makes training on a CPU faster and changes no result beyond rounding."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from distill_dagster.students.fused_gradients import fuse_gradients, part_gradients
from distill_dagster.students.packed_reading import can_pack, pack_attention

FLOAT32_ATTENTION = "distill_float32_sdpa"
PACKED_ATTENTION = "distill_packed_sdpa"
PACKED_FLOAT32_ATTENTION = "distill_packed_float32_sdpa"


def quicken(model: PreTrainedModel, *, bf16: bool, alone: bool) -> bool:
    """Prepares a causal language model for training on a CPU.

    - Where input and output embeddings are one parameter, the gradient of the look-up stays sparse until it meets the
      head's: no second gradient as large as the vocabulary is filled and added.
    - Gradients of weights are added where they are formed (`fused_gradients`): the head's always, the other layers' in
      float32.
    - A batch is read as one sequence, no row padded (`packed_reading`), where the model allows it.
    - Under bfloat16 autocast attention runs in float32: torch's CPU kernel takes about twice as long in bfloat16
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
    if packs and bf16:
        pack_attention(model, float32_attention, PACKED_FLOAT32_ATTENTION)
    elif packs:
        pack_attention(model, sdpa_attention_forward, PACKED_ATTENTION)
    elif bf16 and model.config.get_text_config()._attn_implementation == "sdpa":
        AttentionInterface.register(FLOAT32_ATTENTION, float32_attention)
        AttentionMaskInterface.register(FLOAT32_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
        model.set_attn_implementation(FLOAT32_ATTENTION)
    return packs


def float32_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention in float32; returns the precision it was given."""
    if mask is not None and mask.dtype is not torch.bool:
        mask = mask.float()
    with torch.autocast(query.device.type, enabled=False):
        output, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **settings)
    return output.to(query.dtype), None


def plain_again(model: PreTrainedModel) -> None:
    """Takes back what `quicken` did, before a model is saved or used otherwise."""
    embedding = model.get_input_embeddings()
    if isinstance(embedding, nn.Embedding):
        embedding.sparse = False
    part_gradients(model)
    ours = {FLOAT32_ATTENTION, PACKED_ATTENTION, PACKED_FLOAT32_ATTENTION}
    if model.config.get_text_config()._attn_implementation in ours:
        model.set_attn_implementation("sdpa")
