"""vLLM's offline interface as of 0.33, strict about its arguments, answering with a plain greedy loop of transformers.

Only what `LLM.generate` promises is imitated: which arguments exist, what each refuses, when a sequence ends, and the
objects that come back. `fake_vllm()` is a module to put into `sys.modules`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypedDict

import torch

VERSION = "0.33.0"
DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")


class TokensPrompt(TypedDict):
    """A prompt as token ids."""

    prompt_token_ids: list[int]


@dataclass
class SamplingParams:
    """The fields of vLLM's that greedy generation could use, with vLLM's defaults."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        self.stop = [self.stop] if isinstance(self.stop, str) else list(self.stop or [])
        self.stop_token_ids = list(self.stop_token_ids or [])
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True.")
        if any(not stop for stop in self.stop):
            raise ValueError("stop cannot contain an empty string.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}.")


@dataclass
class CompletionOutput:
    """One answer; its token ids hold the stop token, its text does not."""

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: Any
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    """The answers to one prompt."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: Any
    outputs: list[CompletionOutput]
    finished: bool


@dataclass
class Calls:
    """What was asked of the module, for tests to look at."""

    engines: list[dict[str, Any]] = field(default_factory=list)
    sampling: list[SamplingParams] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    fail_at_batch: int | None = None
    finish_reason: str | None = None


def fake_vllm() -> ModuleType:
    """The module; its `calls` tell what it was asked and may tell it to fail."""
    module = ModuleType("vllm")
    calls = Calls()

    class LLM(_LLM):
        def __init__(self, model: str, **arguments: Any) -> None:
            calls.engines.append({"model": model, **arguments})
            super().__init__(model, **arguments)

        def generate(self, prompts: Any, sampling_params: Any = None, **arguments: Any) -> list[RequestOutput]:
            if calls.fail_at_batch == len(calls.batches):
                raise KeyboardInterrupt
            calls.batches.append(len(prompts))
            calls.sampling.append(sampling_params)
            outputs = super().generate(prompts, sampling_params, **arguments)
            for output in outputs if calls.finish_reason else []:
                output.outputs[0].finish_reason = calls.finish_reason
            return outputs

    module.__dict__.update(
        LLM=LLM,
        SamplingParams=SamplingParams,
        TokensPrompt=TokensPrompt,
        RequestOutput=RequestOutput,
        CompletionOutput=CompletionOutput,
        __version__=VERSION,
        calls=calls,
    )
    return module


class _LLM:
    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        generation_config: str = "auto",
        enable_prefix_caching: bool | None = None,
        disable_log_stats: bool = True,
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer  # as late as vLLM itself is imported

        if dtype not in DTYPES:
            raise ValueError(f"Unknown dtype: {dtype}")
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer or model)
        derived = self._model.config.max_position_embeddings
        if max_model_len is not None and max_model_len > derived:
            raise ValueError(
                f"User-specified max_model_len ({max_model_len}) is greater than the derived max_model_len "
                f"(max_position_embeddings={derived})."
            )
        self._max_model_len = max_model_len or derived
        self._requests = 0

    def generate(
        self,
        prompts: TokensPrompt | Sequence[TokensPrompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: None = None,
        priority: None = None,
    ) -> list[RequestOutput]:
        assert not use_tqdm, "would draw a bar on stderr"
        assert isinstance(sampling_params, SamplingParams)
        every = prompts if isinstance(prompts, list) else [prompts]
        for prompt in every:
            if set(prompt) != {"prompt_token_ids"}:
                raise ValueError(f"no prompt of token ids: {prompt}")
            length = len(prompt["prompt_token_ids"])
            if not 0 < length < self._max_model_len:
                raise ValueError(
                    f"The decoder prompt (length {length}) plus the number of requested output tokens (at least 1) is "
                    f"longer than the maximum model length of {self._max_model_len}."
                )
        return [self._answer(prompt["prompt_token_ids"], sampling_params) for prompt in every]

    def _answer(self, prompt: list[int], params: SamplingParams) -> RequestOutput:
        assert params.temperature == 0, "sampling is not imitated"
        assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0, 0, 1)
        self._requests += 1
        completion = self._complete(prompt, params)
        return RequestOutput(str(self._requests - 1), None, list(prompt), None, [completion], finished=True)

    @torch.inference_mode()
    def _complete(self, prompt: list[int], params: SamplingParams) -> CompletionOutput:
        """The order of the checks is vLLM's: stop ids, then length, and a stop string overrules length."""
        produced: list[int] = []
        text, finish, stop_reason = "", None, None
        while finish is None:
            logits = self._model(input_ids=torch.tensor([[*prompt, *produced]])).logits
            produced.append(int(logits[0, -1].argmax()))
            if not params.ignore_eos and produced[-1] == self._tokenizer.eos_token_id:
                finish = "stop"
            elif produced[-1] in params.stop_token_ids:
                finish, stop_reason = "stop", produced[-1]
            elif len(prompt) + len(produced) >= self._max_model_len or len(produced) >= (params.max_tokens or 10**9):
                finish = "length"
            if finish == "stop":
                break
            if params.detokenize:
                text = self._tokenizer.decode(produced, skip_special_tokens=params.skip_special_tokens)
                found = next((stop for stop in params.stop if stop in text), None)
                if found is not None:
                    text, finish, stop_reason = text[: text.index(found)], "stop", found
        return CompletionOutput(0, text, produced, None, None, finish, stop_reason)
