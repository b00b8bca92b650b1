"""What all prompts of a batch begin with (system prompt, few-shot examples): read once, its cache serves every row."""

from collections.abc import Sequence
from itertools import takewhile

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# a shorter common beginning is not worth a pass of its own
MIN_SHARED_TOKENS = 8


def shared_tokens(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, 0 where reading them apart would not pay.

    Each prompt keeps at least its last token for itself.
    """
    if len(prompts) < 2:
        return 0
    lowest, highest = min(prompts), max(prompts)  # whatever these two share, all between them share
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(lowest, highest, strict=False)))
    common = min(alike, min(map(len, prompts)) - 1)
    return common if common >= MIN_SHARED_TOKENS else 0


def serves_every_row(cache: DynamicCache) -> bool:
    """Whether a model's cache can stand in for tokens that were read before: full attention in every layer.

    Padding may lie between the prefix and a shorter prompt's rest, which a window or a recurrent state would count.
    """
    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
