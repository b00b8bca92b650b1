"""From conversations to next-token logits at the positions that count, never [batch, time, vocabulary]."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel

from distill_dagster.teachers.local.shared_prefix import serves_every_row, shared_tokens

CHUNK_TOKENS = 1024


@dataclass(frozen=True)
class CompletionBatch:
    """Prompts with their completions, ready to be read together.

    Attributes:
        prefix: [shared], ids that all rows begin with, read once for all of them; may be empty.
        input_ids: [rows, time], the rest of each row, padded on the right with 0. A causal model never looks from a
            token to the padding behind it, so no mask is needed.
        target: [rows, time], True at completion tokens; never in the first column.
    """

    prefix: Tensor
    input_ids: Tensor
    target: Tensor

    @property
    def labels(self) -> Tensor:
        """[targets], the completion tokens, row after row."""
        return self.input_ids[self.target]

    def to(self, device: torch.device) -> "CompletionBatch":
        """The same on another device."""
        return CompletionBatch(self.prefix.to(device), self.input_ids.to(device), self.target.to(device))


def collate(prompts: Sequence[list[int]], completions: Sequence[list[int]], *, share: bool = True) -> CompletionBatch:
    """Puts tokenised rows into a batch.

    Args:
        prompts: token ids up to where the completion begins; each at least one.
        completions: token ids of the completions, in the same order.
        share: whether what all prompts begin with (a system prompt, few-shot examples) is read once; see
            `can_share_prefix`.
    """
    shared = shared_tokens(prompts) if share else 0
    rows = [[*prompt[shared:], *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    input_ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    target = torch.zeros_like(input_ids, dtype=torch.bool)
    for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        input_ids[index, : len(row)] = torch.tensor(row)
        target[index, len(prompt) - shared : len(row)] = True
    return CompletionBatch(torch.tensor(prompts[0][:shared], dtype=torch.long), input_ids, target)


def can_share_prefix(model: PreTrainedModel) -> bool:
    """Whether a cache of this model's can stand in for tokens that were read before."""
    return serves_every_row(DynamicCache(config=model.config))


def hidden_before(model: PreTrainedModel, batch: CompletionBatch) -> Tensor:
    """Hidden states from which the completion tokens of a batch are predicted.

    A shared prefix is read once and its keys and values serve every row; gradients flow back through them.

    Returns:
        [targets, hidden], row after row.
    """
    backbone = cast(Any, model).base_model
    cache = _read_prefix(backbone, batch) if len(batch.prefix) else None
    output = backbone(input_ids=batch.input_ids[:, :-1], cache=cache, use_cache=cache is not None)
    return cast(Tensor, output.last_hidden_state)[batch.target[:, 1:]]


def _read_prefix(backbone: Any, batch: CompletionBatch) -> Any:
    cache = DynamicCache(config=backbone.config)
    backbone(input_ids=batch.prefix[None], cache=cache, use_cache=True)
    cache.batch_repeat_interleave(len(batch.input_ids))
    return cache


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
