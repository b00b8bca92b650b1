"""A causal language model with its tokenizer and chat template, loaded for the worker's generation and scoring."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jinja2 import TemplateError as JinjaError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distill_dagster.errors import DistillError, TeacherError
from distill_dagster.jobs import ModelRef
from distill_dagster.spec.teacher import Dtype

Messages = list[dict[str, str]]
_PROBE = "distilled"


@dataclass(frozen=True)
class ChatFormat:
    """How a model is spoken to: all of it that is known without its weights.

    Attributes:
        source: its folder or hub id.
        stop_ids: token ids that end its turn.
        context: most tokens of prompt and answer together, or None where the model does not say.
    """

    source: str
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    context: int | None

    def encode(self, messages: Messages) -> list[int]:
        """Token ids of a conversation up to where the answer begins."""
        return encode_chat(self.tokenizer, messages, source=self.source)

    def decode(self, token_ids: list[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return decode_text(self.tokenizer, token_ids)


@dataclass(frozen=True)
class ChatModel(ChatFormat):
    """A model ready to answer: in evaluation mode, on its device."""

    model: PreTrainedModel

    @property
    def device(self) -> torch.device:
        """Where inputs have to be."""
        return self.model.device


def load_chat_format(ref: ModelRef, error: type[DistillError] = TeacherError) -> ChatFormat:
    """Loads tokenizer and configuration, for an engine that loads the weights itself.

    Raises:
        DistillError: (as `error`) they cannot be loaded, or there is no chat template.
    """
    tokenizer = load_tokenizer(ref, error)
    try:
        config = AutoConfig.from_pretrained(ref.source, **_origin(ref))
    except (OSError, ValueError) as problem:
        raise error(_unloadable(ref, problem)) from None
    return ChatFormat(
        source=ref.source,
        tokenizer=tokenizer,
        stop_ids=_stop_ids(_generation_config(ref, config), tokenizer, error),
        context=_context(config),
    )


def load_chat_model(ref: ModelRef, dtype: Dtype, error: type[DistillError] = TeacherError) -> ChatModel:
    """Loads model and tokenizer.

    Raises:
        DistillError: (as `error`) the model cannot be loaded, or has no chat template.
    """
    tokenizer = load_tokenizer(ref, error)
    model = load_model(ref, getattr(torch, dtype), error)
    model.train(False)
    cast(Any, model).to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return ChatModel(
        source=ref.source,
        tokenizer=tokenizer,
        stop_ids=stop_ids(model, tokenizer, error),
        context=_context(model.config),
        model=model,
    )


def load_model(ref: ModelRef, dtype: torch.dtype, error: type[DistillError]) -> PreTrainedModel:
    """The weights, from safetensors only; the repository's own code runs only where it is trusted.

    Raises:
        DistillError: (as `error`) naming what could not be loaded and why.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(ref.source, dtype=dtype, use_safetensors=True, **_origin(ref))
    except (OSError, ValueError) as problem:
        raise error(_unloadable(ref, problem)) from None
    return cast(PreTrainedModel, model)


def load_tokenizer(ref: ModelRef, error: type[DistillError]) -> PreTrainedTokenizerBase:
    """The tokenizer with its chat template, padding on the left.

    Raises:
        DistillError: (as `error`) it cannot be loaded, or has no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(ref.source, padding_side="left", **_origin(ref))
    except (OSError, ValueError) as problem:
        raise error(_unloadable(ref, problem)) from None
    if not tokenizer.chat_template:
        raise error(
            f"{ref.source}: the tokenizer has no chat template, so nothing says how a prompt is written; name the "
            "model's instruct version, or put a `chat_template.jinja` into a local copy of its folder"
        )
    return cast(PreTrainedTokenizerBase, tokenizer)


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    *,
    source: str = "the model",
    error: type[DistillError] = TeacherError,
) -> list[int]:
    """Token ids of a conversation with the opening of the assistant's turn.

    Raises:
        DistillError: (as `error`) the chat template refuses these messages.
    """
    try:
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    except JinjaError as problem:
        roles = ", ".join(message["role"] for message in messages)
        raise error(f"{source}: its chat template refuses messages of the roles {roles}: {problem}") from None
    return cast(list[int], cast(Any, encoded)["input_ids"])


def decode_text(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    """Text of token ids, special tokens left out and nothing tidied."""
    text = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return cast(str, text)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase, error: type[DistillError] = TeacherError) -> int:
    """The id that the chat template puts after an assistant's message: what a student must learn to stop with.

    It is found by rendering one, because it is not always the tokenizer's `eos_token` (on Llama 3 base and instruct
    models, for one, the two differ).

    Raises:
        DistillError: (as `error`) the template ends a turn without any special token.
    """
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}], tokenize=False
    )
    tail = cast(str, rendered).rpartition(_PROBE)[2]
    marks = set(tokenizer.all_special_ids) | set(cast(dict[int, Any], getattr(tokenizer, "added_tokens_decoder", {})))
    for token_id in cast(list[int], tokenizer.encode(tail, add_special_tokens=False)):
        if token_id in marks:
            return token_id
    if tokenizer.eos_token_id is None:
        raise error("the chat template ends an assistant's turn without a special token; add an eos token to it")
    return int(cast(int, tokenizer.eos_token_id))


def stop_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, error: type[DistillError] = TeacherError
) -> frozenset[int]:
    """All ids that end an answer: the model's declared ones, the tokenizer's and the chat template's."""
    return _stop_ids(model.generation_config, tokenizer, error)


def _stop_ids(generation: Any, tokenizer: PreTrainedTokenizerBase, error: type[DistillError]) -> frozenset[int]:
    declared = getattr(generation, "eos_token_id", None)
    ids = {end_of_turn_id(tokenizer, error), tokenizer.eos_token_id}
    ids.update(declared if isinstance(declared, list) else [declared])
    return frozenset(int(token_id) for token_id in ids if token_id is not None)


def same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether token ids of one mean the same to the other: equal id→token maps, equal end of turn.

    Equal vocabulary sizes mean nothing; chat templates may differ, since they only write the prompt.
    """
    return one.get_vocab() == other.get_vocab() and end_of_turn_id(one) == end_of_turn_id(other)


def token_differences(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, most: int = 3) -> list[str]:
    """The first `most` ids that mean different tokens, as `id 7 is 'a' in one, 'b' in the other`.

    Ids past the end of both tokenizers are padding of a model's head, whatever is written there.
    """
    end = max(len(one), len(other))
    here, there = (
        {token_id: token for token, token_id in tokenizer.get_vocab().items() if token_id < end}
        for tokenizer in (one, other)
    )
    differing = sorted(token_id for token_id in here.keys() | there.keys() if here.get(token_id) != there.get(token_id))
    return [
        f"id {token_id} is {_named(here.get(token_id))} in one, {_named(there.get(token_id))} in the other"
        for token_id in differing[:most]
    ]


def _named(token: str | None) -> str:
    return "no token" if token is None else repr(token)


def _generation_config(ref: ModelRef, config: PreTrainedConfig) -> GenerationConfig:
    """Declared or, as for a loaded model, derived from the configuration."""
    try:
        return GenerationConfig.from_pretrained(ref.source, **_origin(ref))
    except OSError:
        return GenerationConfig.from_model_config(config)


def _context(config: PreTrainedConfig) -> int | None:
    value = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(value) if value else None


def _origin(ref: ModelRef) -> dict[str, Any]:
    origin: dict[str, Any] = {"trust_remote_code": ref.trust_remote_code}
    return origin | {"revision": ref.revision} if ref.revision is not None else origin


def _unloadable(ref: ModelRef, problem: Exception) -> str:
    reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    return (
        f"{ref.source}: cannot be loaded as a causal language model ({reason}); name a folder, a folder under "
        "`.models/` or a hub id, with its weights as safetensors"
    )
