"""The local teacher: answers a file of requests with a Hugging Face model, inside the worker."""

from time import monotonic
from typing import Any

import torch

from distill_dagster.errors import TeacherError
from distill_dagster.jobs import GenerateJob
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.teachers.local.chat_model import ChatModel, load_chat_model
from distill_dagster.teachers.local.generation import generate
from distill_dagster.teachers.local.request_queue import OpenRequests, batch_sizes, encode_requests
from distill_dagster.teachers.local.shards import Answered, Engine, run_requests


def run_generate(job: GenerateJob, progress: ProgressWriter) -> dict[str, Any]:
    """Answers every request that has no answer in `job.out` yet; each finished batch becomes one whole shard.

    Requests are batched by (length, request key), longest first, so that running out of memory shows at once and
    equal requests are batched equally in every run.

    Returns:
        Counts and measurements for result.json.

    Raises:
        TeacherError: the model cannot be loaded or used, or a batch does not fit into memory.
    """
    return run_requests(job, progress, _start)


def _start(job: GenerateJob, requests: OpenRequests) -> Engine:
    chat = load_chat_model(job.model, job.dtype)
    queue = encode_requests(requests, chat.encode)
    sizes = batch_sizes(
        queue.lengths, batch_size=job.batch_size, batch_tokens=job.batch_tokens, max_tokens=job.max_tokens
    )
    return Engine(queue, sizes, lambda prompts: _answer(chat, prompts, job))


def _answer(chat: ChatModel, prompts: list[list[int]], job: GenerateJob) -> Answered:
    began = read = monotonic()

    def on_read() -> None:
        nonlocal read
        read = monotonic()

    try:
        answers = generate(chat, prompts, max_tokens=job.max_tokens, stop_sequences=job.stop_sequences, on_read=on_read)
    except torch.OutOfMemoryError:
        raise TeacherError(
            f"{job.model.source}: out of memory with {len(prompts)} prompts of up to {max(map(len, prompts))} tokens "
            "at once; lower teacher.batch_size or teacher.batch_tokens"
        ) from None
    return Answered(answers, reading_s=read - began)
