"""How the C allocator treats what training frees on a CPU, where it is glibc's; elsewhere nothing happens.

A step frees and allocates gradients, logits and activations, a hundred megabytes some of them. Given back to the
kernel, every page of them is cleared and mapped anew, which takes as long as a product of matrices; kept, they leave
holes between what lives on. So what lives on (weights, the optimizer's state) is laid out first, in mappings of its
own, and only after the first step is freed memory kept.
"""

import ctypes
import os
import sys
from typing import Any

from transformers import TrainerCallback

# mallopt(3): from which size blocks are mapped by themselves, how much free memory goes back, how many heaps there are
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8
_PREPARED_PRODUCTS = 64
_LIVES_ON, _HUGE, _NONE, _NEVER = 1 << 20, 1 << 26, 1 << 30, (1 << 31) - 1


def lay_out_memory() -> None:
    """Maps large blocks by themselves until a step has been made; the backward pass's thread shares one heap with us.

    oneDNN keeps as many prepared products as a few steps use: each is for one number of tokens and takes a megabyte or
    two, and by default it keeps 1,024. To be called before a model is loaded.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_PREPARED_PRODUCTS))
    _set(_ARENA_MAX, 1)
    _set(_MMAP_THRESHOLD, _LIVES_ON)


class KeepFreedMemory(TrainerCallback):
    """Keeps what is freed for the next step, once the first has allocated what stays.

    In float32 blocks as large as the head still go back: mapping them anew is a small part of a step there, and keeping
    them a tenth of its memory. In bfloat16, where a step takes half the time, they are kept.
    """

    def __init__(self, *, bf16: bool) -> None:
        """`bf16`: whether products of matrices run in bfloat16."""
        self._apart = _NONE if bf16 else _HUGE

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Called again and again; only the first time changes anything."""
        _set(_MMAP_THRESHOLD, self._apart)
        _set(_TRIM_THRESHOLD, _NEVER)


def _set(parameter: int, value: int) -> None:
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL("libc.so.6").mallopt(parameter, value)
        except (OSError, AttributeError):
            return
