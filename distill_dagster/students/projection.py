"""From a backbone's hidden states to next-token logits at the positions that count, never [batch, time, vocabulary]."""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

CHUNK_TOKENS = 1024


def hidden_before(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, target: Tensor) -> Tensor:
    """Hidden states from which the tokens at `target` positions are predicted.

    Args:
        model: a causal language model.
        input_ids, attention_mask: [rows, time].
        target: [rows, time], True where a token is to be predicted; never in the first column.

    Returns:
        [targets, hidden], in row-major order of `target`.
    """
    backbone = cast(Any, model).base_model
    output = backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    return cast(Tensor, output.last_hidden_state)[:, :-1][target[:, 1:]]


def project(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits in float32 of hidden states: [targets, hidden] → [targets, vocabulary].

    Scaling and soft-capping are applied as the model's own forward does (Cohere multiplies by `logit_scale`, Granite
    divides by `logits_scaling`, Gemma caps by `final_logit_softcapping`).
    """
    config = model.config.get_text_config()
    logits = cast(Tensor, cast(Any, model).get_output_embeddings()(hidden)).float()
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def negative_log_likelihood(model: PreTrainedModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """Summed negative log-likelihood (nats) of `targets` ([targets]) given `hidden` ([targets, hidden]).

    More than one chunk of targets is projected chunk by chunk and projected again in the backward pass: time for
    memory, since a chunk's logits are its size times the vocabulary.
    """
    if len(targets) <= CHUNK_TOKENS:
        return _chunk_loss(model, hidden, targets)
    total = hidden.new_zeros((), dtype=torch.float32)
    for piece in chunks(len(targets)):
        loss = checkpoint(_chunk_loss, model, hidden[piece], targets[piece], use_reentrant=False)
        total = total + cast(Tensor, loss)
    return total


def chunks(count: int, size: int = CHUNK_TOKENS) -> Iterator[slice]:
    """Slices that cover `count` items."""
    return (slice(start, start + size) for start in range(0, count, size))


def _chunk_loss(model: PreTrainedModel, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(project(model, hidden), targets, reduction="sum")
