"""vLLM's `prompt_logprobs`: what is asked of a server about given token ids, and its answer as sparse targets."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from distill_dagster.errors import LogitsError
from distill_dagster.logits.sparse import TopK

# vLLM writes this for a probability of 0, since JSON has no infinity.
LEAST_LOG_PROB = -9999.0
# What a tokenizer decodes part of a character to; a server may show such a token together with its neighbours.
PART_OF_CHARACTER = "�"


@dataclass(frozen=True)
class Captured:
    """A server's answer about one sequence.

    Attributes:
        targets: log Z is not known to a client, and at temperature 1 nobody needs it: it is 0.
        decoded: text of each token id that the answer names, as the server decodes it.
    """

    targets: TopK
    decoded: Mapping[int, str | None]


def request_body(model: str, ids: list[int], k: int) -> dict[str, Any]:
    """The body of a completions request that is about its prompt; the one token it generates is thrown away."""
    return {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": k}


def read_answer(content: bytes, completion: list[int], k: int, vocabulary: int) -> Captured:
    """What a server says of the last token ids of its prompt.

    Args:
        content: the body of its answer.
        completion: these token ids.
        k: ids to keep at each position.
        vocabulary: ids below it are tokens.

    Raises:
        LogitsError: it is no such answer.
    """
    positions = _positions(content, completion)
    k = min(k, vocabulary)
    try:
        heads = [_head(position, k, vocabulary) for position in positions]
        decoded = {int(name): entry["decoded_token"] for position in positions for name, entry in position.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise LogitsError(
            "the server's prompt_logprobs are not vLLM's (log-probability, rank and decoded token of each id)"
        ) from None
    ids = np.array([[token_id for token_id, _ in head] for head in heads], dtype=np.int32).reshape(-1, k)
    log_probs = np.array([[value for _, value in head] for head in heads], dtype=np.float32).reshape(-1, k)
    zeros = np.zeros((len(heads), 1), dtype=np.float32)
    none = np.zeros(len(heads), dtype=np.int32)
    tail = _log_tail(log_probs, vocabulary)
    return Captured(TopK(ids, log_probs, tail, zeros, zeros[:, 0], tail_counts=none, tail_ids=none[:0]), decoded)


def check_tokens(tokenizer: PreTrainedTokenizerBase, decoded: Mapping[int, str | None], source: str) -> None:
    """Makes sure that token ids mean the same here and at the server, as far as the server has named any.

    Args:
        tokenizer: the one that the ids were made with.
        decoded: text of each id as the server decodes it.
        source: where the tokenizer is from, for people.

    Raises:
        LogitsError: one does not; the first is named.
    """
    for token_id, text in sorted(decoded.items()):
        here = cast(str, tokenizer.decode([token_id]))
        if PART_OF_CHARACTER in here or text == here:
            continue
        raise LogitsError(
            f"token {token_id} is {text!r} to the server and {here!r} to the tokenizer of {source}; name the served "
            "model's own tokenizer in logits.tokenizer"
        )


def _positions(content: bytes, completion: list[int]) -> list[dict[str, Any]]:
    """What the answer says at each position of the completion: the ids there by name."""
    try:
        everywhere = json.loads(content)["choices"][0]["prompt_logprobs"]
        positions = everywhere[max(0, len(everywhere) - len(completion)) :]
    except (LookupError, TypeError, ValueError):
        raise LogitsError("the server gives no prompt_logprobs; capturing from a server needs vLLM") from None
    fits = len(positions) == len(completion) and all(
        isinstance(position, dict) and str(token_id) in position
        for position, token_id in zip(positions, completion, strict=True)
    )
    if not fits:
        raise LogitsError("the server's prompt_logprobs are not about the token ids it was sent; it needs to be vLLM")
    return cast(list[dict[str, Any]], positions)


def _head(position: dict[str, Any], k: int, vocabulary: int) -> list[tuple[int, float]]:
    """The k best ids with their log-probabilities, ascending.

    There is one more where the completion's own token is not among them. An id that is no token (a head may have
    padding rows) gives way to some other at probability 0; the mass of both is in the tail then.
    """
    if len(position) < k:
        raise LogitsError(f"the server gives {len(position)} log-probabilities of a token where {k} were asked for")
    ranked = sorted((int(entry["rank"]), int(name), float(entry["logprob"])) for name, entry in position.items())
    head = {token_id: _log_prob(value) for _, token_id, value in ranked[:k] if token_id < vocabulary}
    unused = (token_id for token_id in range(vocabulary) if token_id not in head)
    head |= dict.fromkeys(islice(unused, k - len(head)), -np.inf)
    return sorted(head.items())


def _log_prob(value: float) -> float:
    return -np.inf if value <= LEAST_LOG_PROB else min(value, 0.0)


def _log_tail(log_probs: np.ndarray[Any, np.dtype[np.float32]], vocabulary: int) -> Any:
    """[tokens, 1], the log mass of all other ids, which here can only be what is missing from 1."""
    missing = 1.0 - np.exp(log_probs.astype(np.float64)).sum(-1, keepdims=True)
    if log_probs.shape[1] == vocabulary:
        missing[:] = 0.0
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(missing, 0.0)).astype(np.float32)
