"""How closely a model's next-token distributions follow the local teacher's, teacher-forced on its own answers.

Each reads the prompt in its own form (the teacher with its few-shot examples, say) and then the teacher's stored
completion; only completion positions are compared, the end of turn included. Forward KL is Σ p (log p − log q) in nats
over the whole shared vocabulary, p the teacher's.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from distill_dagster.evaluation.token_baselines import IntArray, TokenBaselines
from distill_dagster.students.projection import chunks, hidden_before, project
from distill_dagster.teachers.local.chat_model import ChatModel, same_tokens

FIDELITY_SCHEMA = {
    "prompt_id": pl.String(),
    "sample": pl.Int32(),
    "model": pl.String(),
    "tokens": pl.Int32(),
    "kl_sum": pl.Float64(),
    "top1_hits": pl.Int32(),
}
BATCH_TOKENS = 4096
CHUNK_TOKENS = 256


@dataclass(frozen=True)
class Measured:
    """One test row: its prompt as each model writes it, and the completion all are measured on."""

    prompt_id: str
    sample: int
    prompts: dict[str, list[int]]
    completion: list[int]

    @property
    def length(self) -> int:
        """Tokens of the longest form."""
        return max(map(len, self.prompts.values())) + len(self.completion)

    @property
    def student_length(self) -> int:
        """Tokens of the longest form that a student or base reads."""
        read = [len(prompt) for name, prompt in self.prompts.items() if name != "teacher"]
        return max(read, default=0) + len(self.completion)


def measure_fidelity(
    teacher: ChatModel,
    models: dict[str, ChatModel],
    baselines: TokenBaselines | None,
    rows: pl.DataFrame,
    max_length: int,
    on_progress: Callable[[int, int], None],
) -> tuple[pl.DataFrame, int]:
    """FIDELITY rows of every model whose tokens are the teacher's, and of the count baselines.

    Args:
        teacher: the local teacher.
        models: students and bases by report name; one with another vocabulary gets no rows.
        baselines: counted on training completions; None leaves them out.
        rows: DATASET columns and teacher_messages; rows without completion_ids get no fidelity.
        max_length: sequences longer than this to a student are left out, never cut.
        on_progress: called with (rows done, rows to do).

    Returns:
        The frame, sorted by prompt_id, sample and model, and the number of rows left out as too long.
    """
    comparable = {name: chat for name, chat in models.items() if same_tokens(teacher.tokenizer, chat.tokenizer)}
    sequences = [*_sequences(teacher, comparable, rows)]
    fitting = sorted((one for one in sequences if one.student_length <= max_length), key=lambda one: -one.length)
    records: list[tuple[str, int, str, int, float | None, int]] = []
    done = 0
    for batch in token_batches(fitting, BATCH_TOKENS):
        records += _measure_batch(teacher, comparable, baselines, batch)
        done += len(batch)
        on_progress(done, len(fitting))
    frame = pl.DataFrame(records, schema=FIDELITY_SCHEMA, orient="row").sort("prompt_id", "sample", "model")
    return frame, len(sequences) - len(fitting)


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
def compare(
    teacher: ChatModel, teacher_hidden: Tensor, student: ChatModel, student_hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Forward KL (float32, nats) and whether the argmaxes agree, at each of the positions.

    Args:
        teacher_hidden, student_hidden: [positions, that model's hidden size].

    Padding rows of the wider of the two heads are no tokens; both are cut to the shared ids before the softmax.
    """
    divergences, agreements = [], []
    for piece in chunks(len(teacher_hidden), CHUNK_TOKENS):
        p_logits = project(teacher.model, teacher_hidden[piece])  # [chunk, vocabulary]
        q_logits = project(student.model, student_hidden[piece]).to(p_logits.device)
        shared = min(p_logits.shape[-1], q_logits.shape[-1], len(teacher.tokenizer))
        p_log = p_logits[:, :shared].log_softmax(-1)
        q_log = q_logits[:, :shared].log_softmax(-1)
        divergences.append((p_log.exp() * (p_log - q_log)).sum(-1))
        agreements.append(p_log.argmax(-1) == q_log.argmax(-1))
    return torch.cat(divergences), torch.cat(agreements)


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


def _sequences(teacher: ChatModel, models: dict[str, ChatModel], rows: pl.DataFrame) -> Iterator[Measured]:
    chats = {"teacher": teacher, **models}
    usable = rows.filter(pl.col("completion_ids").list.len() > 0)
    columns = ("prompt_id", "sample", "messages", "teacher_messages", "completion_ids")
    for prompt_id, sample, messages, teacher_messages, ids in usable.select(columns).iter_rows():
        read = {name: json.loads(teacher_messages if name == "teacher" else messages) for name in chats}
        prompts = {name: chat.encode(read[name]) for name, chat in chats.items()}
        yield Measured(prompt_id, sample, prompts, ids)


def _measure_batch(
    teacher: ChatModel, models: dict[str, ChatModel], baselines: TokenBaselines | None, batch: list[Measured]
) -> Iterator[tuple[str, int, str, int, float | None, int]]:
    lengths = [len(one.completion) for one in batch]
    teacher_hidden = _completion_hidden(teacher, "teacher", batch)
    for name, chat in models.items():
        kl, agree = compare(teacher, teacher_hidden, chat, _completion_hidden(chat, name, batch))
        kl_rows, agree_rows = torch.split(kl.double().cpu(), lengths), torch.split(agree.cpu(), lengths)
        for one, row_kl, row_agree in zip(batch, kl_rows, agree_rows, strict=True):
            tokens = len(one.completion)
            yield one.prompt_id, one.sample, name, tokens, float(row_kl.sum()), int(row_agree.sum())
    if baselines is None:
        return
    guessers: dict[str, Callable[[IntArray], IntArray]] = {
        "most_frequent": baselines.most_frequent_guesses,
        "bigram": baselines.bigram_guesses,
    }
    tops = torch.split(top_tokens(teacher, teacher_hidden).cpu(), lengths)
    for one, top in zip(batch, tops, strict=True):
        for name, guess in guessers.items():
            hits = int((guess(np.array(one.completion)) == top.numpy()).sum())
            yield one.prompt_id, one.sample, name, len(one.completion), None, hits


@torch.inference_mode()
def _completion_hidden(chat: ChatModel, name: str, batch: list[Measured]) -> Tensor:
    """Hidden states that predict the completion tokens, [all completion tokens of the batch, hidden], row after row."""
    width = max(len(one.prompts[name]) + len(one.completion) for one in batch)
    input_ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    target = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, one in enumerate(batch):
        prompt, ids = one.prompts[name], [*one.prompts[name], *one.completion]
        input_ids[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
        target[row, len(prompt) : len(ids)] = True
    device = chat.device
    return hidden_before(chat.model, input_ids.to(device), mask.to(device), target.to(device))
