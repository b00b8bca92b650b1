"""Captures a local teacher's distributions at stored completions: each is read once, and reduced chunk by chunk."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast

import torch

from distill_dagster.errors import LogitsError
from distill_dagster.jobs import CaptureJob
from distill_dagster.logits.capture_queue import CaptureQueue, Item, Reader, read_queue
from distill_dagster.logits.capture_shards import CaptureShards, captured_keys
from distill_dagster.logits.head_file import kept_bytes, save_head
from distill_dagster.logits.projection import can_share_prefix, chunks, collate, hidden_before, project
from distill_dagster.logits.reducers import reducer_of
from distill_dagster.logits.sparse import Sequence
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.teachers.local.chat_model import ChatModel, load_chat_model

# More positions at once are no faster, and their logits would no longer fit into memory that is used again.
CHUNK_POSITIONS = 128
# What starting a batch costs in tokens read: a GPU is about as fast with many tokens as with few.
START_TOKENS = defaultdict(lambda: 2048, cpu=32)


def run_capture(job: CaptureJob, progress: ProgressWriter, *, share: bool = True) -> dict[str, Any]:
    """Captures every sequence of a job that no shard in `job.out` holds yet.

    Args:
        job: without a server.
        progress: told of sequences.
        share: whether what all prompts of a batch begin with is read once.

    Returns:
        sequences, tokens (of the completions) and bytes captured now, reused sequences, over_context (sequences that
        are longer than the model's context and left out) with over_context_keys, and measurements.

    Raises:
        TeacherError: the model cannot be loaded.
        LogitsError: a completion without token ids, an unusable teacher, or too little memory for a batch.
    """
    chat = load_chat_model(job.model, job.dtype)
    queue = read_queue(job.sequences, Reader(chat.encode, _no_ids, chat.context), captured_keys(job))
    vocabulary = min(_head_rows(chat), len(chat.tokenizer))
    if queue.keeps_hidden:
        save_head(job.out, chat.model, vocabulary)
    shards = CaptureShards(job, vocabulary, queue, progress)
    capture = _Capture(chat, job, vocabulary, share=share and can_share_prefix(chat.model))
    for item, sequence in capture.sequences(queue):
        shards.add(sequence, prompt_tokens=len(item.prompt))
    return shards.finish()


class _Capture:
    """A loaded teacher that reads batches and keeps what the identity asks for."""

    def __init__(self, chat: ChatModel, job: CaptureJob, vocabulary: int, *, share: bool) -> None:
        self._chat = chat
        self._job = job
        self._vocabulary = vocabulary
        self._share = share

    def sequences(self, queue: CaptureQueue) -> Iterator[tuple[Item, Sequence]]:
        """Each item with its targets, batch after batch."""
        start_tokens = START_TOKENS[self._chat.device.type]
        for batch in queue.batches(self._job.batch_tokens, share=self._share, start_tokens=start_tokens):
            try:
                captured = self._capture(batch)
            except torch.OutOfMemoryError:
                longest = max(len(item.prompt) + len(item.completion) for item in batch)
                raise LogitsError(
                    f"{self._chat.source}: out of memory with {len(batch)} sequences of up to {longest} tokens at "
                    f"once; lower logits.batch_tokens ({self._job.batch_tokens} now)"
                ) from None
            yield from zip(batch, captured, strict=True)

    @torch.inference_mode()
    def _capture(self, items: list[Item]) -> list[Sequence]:
        batch = collate([item.prompt for item in items], [item.completion for item in items], share=self._share)
        hidden = hidden_before(self._chat.model, batch.to(self._chat.device))  # [targets, hidden]
        reducer = reducer_of(self._job.identity, items, self._job.seed)
        for piece in chunks(max(1, len(hidden)), CHUNK_POSITIONS):
            reducer.add(project(self._chat.model, hidden[piece])[:, : self._vocabulary])
        captured, start = [], 0
        for item, targets in zip(items, reducer.targets(), strict=True):
            tokens = len(item.completion)
            kept = kept_bytes(hidden[start : start + tokens]) if item.keep_hidden else None
            captured.append(Sequence(item.request_key, item.ids_hash, tokens, targets, kept))
            start += tokens
        return captured


def _head_rows(chat: ChatModel) -> int:
    return int(cast(Any, chat.model).get_output_embeddings().weight.shape[0])


def _no_ids(_text: str) -> list[int]:
    raise LogitsError(
        "a stored answer has no token ids, which a local teacher's answers have; materialise teacher_outputs again"
    )
