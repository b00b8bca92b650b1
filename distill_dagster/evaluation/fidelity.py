"""How well a model follows the teacher's stored answers token by token, teacher-forced.

Each model reads the prompt in its own form (the teacher with its few-shot examples, say) and then the teacher's stored
completion; only completion positions count, the end of turn included. What is measured there is the negative
log-likelihood of the completion, −Σ log q in nats. With a local teacher whose tokens the model shares the completion
is the stored token ids, and the two models' distributions are compared as well: forward KL is Σ p (log p − log q) in
nats over the whole shared vocabulary, p the teacher's. Any other completion is tokenised from its text.

A local teacher reads first and once; each model is then compared with what it kept. A model's batches follow from its
own sequences, so its numbers do not depend on which other models are measured.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.token_baselines import IntArray, TokenBaselines
from distill_dagster.logits.projection import can_share_prefix, chunks, collate, hidden_before, project
from distill_dagster.students.heads import Head
from distill_dagster.students.losses import DenseTargets, full_kl, token_nll
from distill_dagster.students.tokens import completion_tokens
from distill_dagster.teachers.local.chat_model import ChatModel, end_of_turn_id, same_tokens

FIDELITY_SCHEMA = {
    "prompt_id": pl.String(),
    "sample": pl.Int32(),
    "tokens": pl.Int32(),
    "nll_sum": pl.Float64(),
    "kl_sum": pl.Float64(),
    "top1_hits": pl.Int32(),
}
"""The last two are null where there is no local teacher, or it has other tokens."""
BASELINE_SCHEMA = {
    "prompt_id": pl.String(),
    "sample": pl.Int32(),
    "model": pl.String(),
    "tokens": pl.Int32(),
    "top1_hits": pl.Int32(),
}
BATCH_TOKENS = 4096
CHUNK_TOKENS = 256
Report = Callable[[int, int], None]
"""Called with (rows done, rows to do)."""


@dataclass(frozen=True)
class Measured:
    """One test row as one model reads it: its prompt, and the completion all are measured on."""

    prompt_id: str
    sample: int
    prompt: list[int]
    completion: list[int]

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class TeacherStates:
    """The teacher's hidden states before every completion token of the test rows.

    Attributes:
        teacher: the model they are of; its head makes logits of them.
        hidden: [completion tokens of all rows, hidden size], a file mapped into memory, in the teacher's precision.
        places: where the tokens of a row (prompt_id, sample) lie in it.
        sequences: the rows as the teacher read them.
    """

    teacher: ChatModel
    hidden: Tensor
    places: dict[tuple[str, int], slice]
    sequences: list[Measured]

    def of(self, batch: Sequence[Measured]) -> Tensor:
        """[completion tokens of the batch, hidden size], row after row, on the teacher's device."""
        rows = [self.hidden[self.places[one.prompt_id, one.sample]] for one in batch]
        return torch.cat(rows).to(self.teacher.device)


@torch.inference_mode()
def read_teacher(teacher: ChatModel, rows: pl.DataFrame, scratch: Path, on_progress: Report) -> TeacherStates | None:
    """Lets the teacher read its own answers; None where no row has the token ids of one.

    Args:
        teacher: the local teacher.
        rows: DATASET columns and teacher_messages; rows without completion_ids are left out.
        scratch: a file to keep the hidden states in: tokens × hidden size × bytes a number.
    """
    sequences = _sequences(teacher, rows, "teacher_messages")
    if not sequences:
        return None
    hidden: Tensor | None = None
    places: dict[tuple[str, int], slice] = {}
    start = 0
    for batch in token_batches(sequences, BATCH_TOKENS):
        states = _completion_hidden(teacher, batch)
        if hidden is None:
            tokens = sum(len(one.completion) for one in sequences)
            shape = (tokens, states.shape[-1])
            flat = torch.from_file(str(scratch), shared=True, size=shape[0] * shape[1], dtype=states.dtype)
            hidden = flat.view(shape)
        hidden[start : start + len(states)] = states.cpu()
        for one in batch:
            places[one.prompt_id, one.sample] = slice(start, start + len(one.completion))
            start += len(one.completion)
        on_progress(len(places), len(sequences))
    assert hidden is not None
    return TeacherStates(teacher, hidden, places, sequences)


@torch.inference_mode()
def measure_model(
    states: TeacherStates | None, chat: ChatModel, rows: pl.DataFrame, max_length: int | None, on_progress: Report
) -> tuple[pl.DataFrame, int]:
    """FIDELITY rows of a model, sorted by prompt_id and sample, and how many rows were left out as too long.

    Args:
        states: what a local teacher made of the same rows; None where there is none.
        chat: a student or base; where its tokens are not the teacher's, their distributions are not compared.
        rows: DATASET columns.
        max_length: sequences longer than this are left out, never cut; None leaves out none.
    """
    if states is not None and not same_tokens(states.teacher.tokenizer, chat.tokenizer):
        states = None
    sequences = _spelled(chat, rows) if states is None else _sequences(chat, rows, "messages")
    fitting = [one for one in sequences if max_length is None or one.length <= max_length]
    records: list[tuple[str, int, int, float, float | None, int | None]] = []
    for batch in token_batches(fitting, BATCH_TOKENS):
        sums = _per_row(_read(states, chat, batch), [len(one.completion) for one in batch])
        for one, (nll, kl, hits) in zip(batch, sums, strict=True):
            records.append((one.prompt_id, one.sample, len(one.completion), nll, kl, hits))
        on_progress(len(records), len(fitting))
    frame = pl.DataFrame(records, schema=FIDELITY_SCHEMA, orient="row")
    return frame.sort("prompt_id", "sample"), len(sequences) - len(fitting)


def measure_baselines(states: TeacherStates, baselines: TokenBaselines) -> pl.DataFrame:
    """BASELINE rows of both next-token guessers, sorted by prompt_id, sample and model.

    Args:
        states: what the teacher made of the test rows.
        baselines: counted on training completions.
    """
    guessers: dict[str, Callable[[IntArray], IntArray]] = {
        "most_frequent": baselines.most_frequent_guesses,
        "bigram": baselines.bigram_guesses,
    }
    records = []
    for one in states.sequences:
        top = top_tokens(states.teacher, states.of([one])).cpu().numpy()
        for name, guess in guessers.items():
            hits = int((guess(np.array(one.completion)) == top).sum())
            records.append((one.prompt_id, one.sample, name, len(one.completion), hits))
    return pl.DataFrame(records, schema=BASELINE_SCHEMA, orient="row").sort("prompt_id", "sample", "model")


def token_batches(sequences: Sequence[Measured], budget: int) -> Iterator[list[Measured]]:
    """Cuts sequences, longest first, into batches of at most `budget` padded tokens (at least one sequence each)."""
    batch: list[Measured] = []
    for one in sequences:
        if batch and batch[0].length * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


@torch.inference_mode()
def top_tokens(teacher: ChatModel, hidden: Tensor) -> Tensor:
    """The teacher's most likely token at each position: [positions, hidden] → [positions]."""
    vocabulary = len(teacher.tokenizer)
    return torch.cat(
        [
            project(teacher.model, hidden[piece])[:, :vocabulary].argmax(-1)
            for piece in chunks(len(hidden), CHUNK_TOKENS)
        ]
    )


def _read(states: TeacherStates | None, chat: ChatModel, batch: Sequence[Measured]) -> tuple[Tensor, ...]:
    """Of each completion token of a batch: its negative log-likelihood, and with a teacher the KL and the agreement."""
    hidden, head = _completion_hidden(chat, batch), _head(chat)
    labels = torch.tensor([token for one in batch for token in one.completion], device=hidden.device)
    if states is None:
        return (token_nll(hidden, head, labels),)
    kl, nll, agree = full_kl(hidden, head, DenseTargets(states.of(batch), _head(states.teacher)), labels)
    return nll, kl, agree


def _per_row(found: Sequence[Tensor], lengths: list[int]) -> list[tuple[float, float | None, int | None]]:
    """Sums over the tokens of each row."""
    nll, *compared = [[part.sum().item() for part in torch.split(one.double().cpu(), lengths)] for one in found]
    if not compared:
        return [(row, None, None) for row in nll]
    return [(row, kl, int(hits)) for row, kl, hits in zip(nll, *compared, strict=True)]


def _head(chat: ChatModel) -> Head:
    return Head.of(chat.model, len(chat.tokenizer))


def _sequences(chat: ChatModel, rows: pl.DataFrame, read: str) -> list[Measured]:
    """Rows with completion ids as a model reads them (`read`: the column of its messages), longest first."""
    usable = rows.filter(pl.col("completion_ids").list.len() > 0).select("prompt_id", "sample", read, "completion_ids")
    return _longest_first(
        Measured(prompt_id, sample, chat.encode(json.loads(messages)), ids)
        for prompt_id, sample, messages, ids in usable.iter_rows()
    )


def _spelled(chat: ChatModel, rows: pl.DataFrame) -> list[Measured]:
    """All rows, their completions in the tokens that the model itself makes of the text, longest first."""
    end = end_of_turn_id(chat.tokenizer, EvaluationError)
    said = rows.select("prompt_id", "sample", "messages", "completion")
    return _longest_first(
        Measured(prompt_id, sample, chat.encode(json.loads(messages)), completion_tokens(chat.tokenizer, text, end))
        for prompt_id, sample, messages, text in said.iter_rows()
    )


def _longest_first(found: Iterable[Measured]) -> list[Measured]:
    return sorted(found, key=lambda one: (-one.length, one.prompt_id, one.sample))


@torch.inference_mode()
def _completion_hidden(chat: ChatModel, batch: Sequence[Measured]) -> Tensor:
    """Hidden states that predict the completion tokens, [all completion tokens of the batch, hidden], row after row."""
    prompts, completions = [one.prompt for one in batch], [one.completion for one in batch]
    read = collate(prompts, completions, share=can_share_prefix(chat.model))
    return hidden_before(chat.model, read.to(chat.device))
