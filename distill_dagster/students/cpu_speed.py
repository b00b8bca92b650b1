"""What makes training on a CPU faster and changes no result beyond rounding."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from distill_dagster.students.fused_gradients import fuse_gradients, part_gradients

ATTENTION = "distill_float32_sdpa"


def quicken(model: PreTrainedModel, *, bf16: bool, alone: bool) -> None:
    """Prepares a causal language model for training on a CPU.

    - Where input and output embeddings are one parameter, the gradient of the look-up stays sparse until it meets the
      head's: no second gradient as large as the vocabulary is filled and added.
    - Gradients of weights are added where they are formed (`fused_gradients`): the head's always, the other layers' in
      float32.
    - Under bfloat16 autocast attention runs in float32: torch's CPU kernel takes about twice as long in bfloat16
      at the lengths of short answers (torch 2.14).

    Args:
        bf16: whether products of matrices run in bfloat16.
        alone: whether no other process trains with this one; several exchange dense gradients.
    """
    embedding, head = model.get_input_embeddings(), cast(Any, model).get_output_embeddings()
    if alone and isinstance(embedding, nn.Embedding) and head is not None and embedding.weight is head.weight:
        embedding.sparse = embedding.weight.requires_grad and head.weight.requires_grad
    if alone:
        fuse_gradients(model, head, products=not bf16)
    if bf16 and model.config.get_text_config()._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, float32_attention)
        AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
        model.set_attn_implementation(ATTENTION)


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
    if model.config.get_text_config()._attn_implementation == ATTENTION:
        model.set_attn_implementation("sdpa")
