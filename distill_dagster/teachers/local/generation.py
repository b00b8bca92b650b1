"""Greedy generation for the teacher, for students and for `distill try`: one loop, so that answers are comparable.

An answer is the argmax of the model's own logits at every step. Sampling settings and penalties of a model's
`generation_config.json` are ignored on purpose: an answer then depends on weights, tokenizer, template, messages,
`max_tokens` and stop sequences alone, which are what its request key hashes. In bfloat16 a tie within rounding can
still fall differently when a prompt shares its batch with other prompts; callers therefore batch in a fixed order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from distill_dagster.errors import TeacherError
from distill_dagster.teachers.local.chat_model import ChatModel
from distill_dagster.teachers.local.shared_prefix import serves_every_row, shared_tokens

# finished rows leave the batch only when they are at least this share of it: leaving copies the key-value cache
DROP_SHARE = 0.125


class StopReason(StrEnum):
    """Why an answer ended."""

    END_TURN = "end_turn"
    MAX_TOKENS = "max_tokens"
    STOP_SEQUENCE = "stop_sequence"


@dataclass(frozen=True)
class Answer:
    """One greedy answer.

    `token_ids` are exactly what was produced: the stop token is there if it was produced, padding never is. `text`
    leaves out special tokens and, as hosted providers do, a stop sequence and what follows it.
    """

    token_ids: list[int]
    text: str
    stop_reason: StopReason
    input_tokens: int


@dataclass
class _Row:
    prompt: list[int]
    limit: int
    produced: list[int] = field(default_factory=list)
    stop_reason: StopReason | None = None


def generate(
    chat: ChatModel,
    prompts: Sequence[list[int]],
    *,
    max_tokens: int,
    stop_sequences: Sequence[str] = (),
    on_read: Callable[[], object] | None = None,
) -> list[Answer]:
    """Answers a batch of tokenised prompts together, in their order.

    A row ends at its own stop token, at a stop sequence, after `max_tokens`, or where the model's context is full.

    Args:
        on_read: called once, when the prompts are read and each row has its first token: reading costs a prompt's
            length, what follows an answer's.

    Raises:
        TeacherError: a prompt alone fills the model's context.
    """
    rows = [_Row(prompt, answer_limit(chat.source, len(prompt), max_tokens, chat.context)) for prompt in prompts]
    if rows:
        _decode(chat, rows, stop_sequences, on_read)
    return [_answer(chat, row, stop_sequences) for row in rows]


def answer_limit(source: str, prompt_tokens: int, max_tokens: int, context: int | None) -> int:
    """Most tokens of an answer: `max_tokens`, or what the prompt leaves of the model's context.

    Raises:
        TeacherError: a prompt alone fills the model's context.
    """
    if context is None:
        return max_tokens
    if prompt_tokens >= context:
        raise TeacherError(
            f"{source}: a prompt of {prompt_tokens} tokens fills the model's context of {context}; "
            "shorten the prompt or name a model with a longer context"
        )
    return min(max_tokens, context - prompt_tokens)


def before_stop(text: str, stop_sequences: Sequence[str]) -> str:
    """An answer's text up to the first stop sequence in it."""
    return text[: min((at for at in (text.find(stop) for stop in stop_sequences) if at >= 0), default=len(text))]


@torch.inference_mode()
def _decode(
    chat: ChatModel, rows: list[_Row], stop_sequences: Sequence[str], on_read: Callable[[], object] | None
) -> None:
    """Fills `produced` and `stop_reason` of every row."""
    cache = DynamicCache(config=chat.model.config)
    shared = _read_shared_prefix(chat, rows, cache)
    input_ids, mask = _left_padded(chat, [row.prompt[shared:] for row in rows])  # [rows, time] each
    positions = shared + (mask.cumsum(-1) - 1).clamp(min=0)
    mask = torch.cat([mask.new_ones(len(rows), shared), mask], dim=1)
    active = list(rows)
    while True:
        logits = _forward(chat, input_ids, mask, positions, cache)  # [rows, vocabulary]
        chosen = logits.argmax(-1)
        token_ids = cast(list[int], chosen.tolist())
        if on_read is not None:
            on_read()
            on_read = None
        for row, token_id in zip(active, token_ids, strict=True):
            if row.stop_reason is None:
                row.produced.append(token_id)
                row.stop_reason = _stop_reason(chat, row, stop_sequences)
        going = [slot for slot, row in enumerate(active) if row.stop_reason is None]
        if not going:
            return
        if len(active) - len(going) >= DROP_SHARE * len(active):
            kept = torch.tensor(going, device=chat.device)
            chosen, mask, positions = chosen[kept], mask[kept], positions[kept]
            cache.batch_select_indices(kept)
            active = [active[slot] for slot in going]
        input_ids = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        positions = positions[:, -1:] + 1


def _read_shared_prefix(chat: ChatModel, rows: list[_Row], cache: Any) -> int:
    """Reads what all prompts begin with once into the cache, for every row.

    Returns:
        How many tokens that were; 0 where sharing would not pay or the cache cannot serve every row.
    """
    shared = shared_tokens([row.prompt for row in rows]) if serves_every_row(cache) else 0
    if not shared:
        return 0
    ids = torch.tensor([rows[0].prompt[:shared]], device=chat.device)
    mask = torch.ones_like(ids)
    _forward(chat, ids, mask, mask.cumsum(-1) - 1, cache)
    cache.batch_repeat_interleave(len(rows))
    return shared


def _forward(chat: ChatModel, input_ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
    model = cast(Any, chat.model)
    output = model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions,
        cache=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return cast(Tensor, output.logits)[:, -1]


def _left_padded(chat: ChatModel, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, [rows, longest]; padded cells hold id 0 and are masked, so the id never matters."""
    width = max(map(len, prompts))
    input_ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return input_ids.to(chat.device), mask.to(chat.device)


def _stop_reason(chat: ChatModel, row: _Row, stop_sequences: Sequence[str]) -> StopReason | None:
    if row.produced[-1] in chat.stop_ids:
        return StopReason.END_TURN
    if stop_sequences:
        text = chat.decode(row.produced)
        if any(stop in text for stop in stop_sequences):
            return StopReason.STOP_SEQUENCE
    return StopReason.MAX_TOKENS if len(row.produced) >= row.limit else None


def _answer(chat: ChatModel, row: _Row, stop_sequences: Sequence[str]) -> Answer:
    assert row.stop_reason is not None
    text = chat.decode(row.produced)
    if row.stop_reason is StopReason.STOP_SEQUENCE:
        text = before_stop(text, stop_sequences)
    return Answer(row.produced, text, row.stop_reason, len(row.prompt))
