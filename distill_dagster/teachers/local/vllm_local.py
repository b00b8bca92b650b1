"""The local teacher run by vLLM, inside the worker: greedy answers in the same shards, batched by vLLM itself."""

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch

from distill_dagster.errors import TeacherError
from distill_dagster.jobs import GenerateJob
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.teachers.local.chat_model import ChatFormat, load_chat_format
from distill_dagster.teachers.local.engines import engine_missing
from distill_dagster.teachers.local.generation import Answer, StopReason, answer_limit, before_stop
from distill_dagster.teachers.local.request_queue import OpenRequests, chunk_sizes, encode_requests
from distill_dagster.teachers.local.shards import Answered, Engine, run_requests

# vLLM keeps its batch full within one call and runs dry at its end: several times what it holds at once (256 to 1,024
# sequences), yet few enough that shards appear, and a kill loses, minutes of work rather than hours
CHUNK_ROWS = 2048
# each only where the environment does not say otherwise
ENVIRONMENT = {
    # the engine in this process: it ends with the worker instead of holding the GPU, and schedules alike each run
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


def run_generate(job: GenerateJob, progress: ProgressWriter) -> dict[str, Any]:
    """Answers every request that has no answer in `job.out` yet; each finished chunk becomes one whole shard.

    `job.batch_size` and `job.batch_tokens` say nothing here: vLLM holds as many rows at once as memory allows.

    Returns:
        Counts and measurements for result.json.

    Raises:
        TeacherError: vLLM is not installed, or cannot load or hold the model.
    """
    return run_requests(job, progress, _start)


def _start(job: GenerateJob, requests: OpenRequests) -> Engine:
    vllm = _import()
    chat = load_chat_format(job.model)
    queue = encode_requests(requests, chat.encode)
    longest = queue.lengths[0]
    # room for the longest prompt and its answer, no more: the key-value cache must hold one sequence of this length
    room = longest + answer_limit(chat.source, longest, job.max_tokens, chat.context)
    llm = _load(vllm, job, room)
    sampling = vllm.SamplingParams(**_sampling(chat, job))

    def answer(prompts: list[list[int]]) -> Answered:
        tokenised = [vllm.TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        outputs = llm.generate(tokenised, sampling, use_tqdm=False)
        return Answered(
            [
                _answer(chat, prompt, output.outputs[0], job.stop_sequences)
                for prompt, output in zip(prompts, outputs, strict=True)
            ]
        )

    return Engine(queue, chunk_sizes(requests.count, CHUNK_ROWS), answer)


def _import() -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return import_module("vllm")
    except ModuleNotFoundError as problem:
        if problem.name != "vllm":
            raise
        raise engine_missing("vllm") from None


def _load(vllm: Any, job: GenerateJob, room: int) -> Any:
    try:
        return vllm.LLM(
            model=job.model.source,
            revision=job.model.revision,
            tokenizer_revision=job.model.revision,
            trust_remote_code=job.model.trust_remote_code,
            dtype=job.dtype,
            max_model_len=room,
            generation_config="vllm",  # the model's own sampling settings are no part of a greedy answer
            disable_log_stats=True,
        )
    except (OSError, ValueError, torch.OutOfMemoryError) as problem:
        raise TeacherError(f"{job.model.source}: vLLM cannot load or hold it ({problem})") from None


def _sampling(chat: ChatFormat, job: GenerateJob) -> dict[str, Any]:
    """The argmax at every step until one of our stop ids, a stop sequence or `max_tokens`."""
    return {
        "temperature": 0.0,
        "max_tokens": job.max_tokens,
        "stop": list(job.stop_sequences),
        "stop_token_ids": sorted(chat.stop_ids),
        "ignore_eos": True,  # vLLM's own idea of which ids end an answer; ours are all in `stop_token_ids`
        "detokenize": bool(job.stop_sequences),  # vLLM needs text to find a stop sequence in; we decode it ourselves
        "skip_special_tokens": True,
    }


def _answer(chat: ChatFormat, prompt: list[int], completion: Any, stop_sequences: Sequence[str]) -> Answer:
    """Our answer from a vLLM `CompletionOutput`, whose token ids hold the stop token where one was produced.

    Its text is not taken: vLLM decodes an answer as the continuation of its prompt, which can put a space before it
    that our decoding has not.
    """
    token_ids = list(completion.token_ids)
    reason = _stop_reason(chat, completion)
    text = chat.decode(token_ids)
    if reason is StopReason.STOP_SEQUENCE:
        text = before_stop(text, stop_sequences)
    return Answer(token_ids, text, reason, len(prompt))


def _stop_reason(chat: ChatFormat, completion: Any) -> StopReason:
    """Maps vLLM's `finish_reason`; its `stop_reason` is the stop sequence's text, or a stop token's id."""
    match completion.finish_reason:
        case "length":
            return StopReason.MAX_TOKENS
        case "stop" if isinstance(completion.stop_reason, str):
            return StopReason.STOP_SEQUENCE
        case "stop":
            return StopReason.END_TURN
        case other:
            raise TeacherError(f"{chat.source}: vLLM gave up a request ({other}); run again to ask the rest")
