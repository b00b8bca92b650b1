"""The teacher's output head beside captured logits, so that kept hidden states give full distributions again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from distill_dagster.errors import LogitsError
from distill_dagster.storage import read_json, write_file, write_json

WEIGHTS_FILE = "head.safetensors"
SETTINGS_FILE = "head.json"


@dataclass(frozen=True)
class SavedHead:
    """How hidden states become logits: weight · hidden + bias, times `scale`, soft-capped.

    Attributes:
        weight: [vocabulary, hidden], in the teacher's precision, which hidden states have too.
        bias: [vocabulary], or None.
        scale: factor of the logits.
        softcap: c of c · tanh(logits / c), or None.
        vocabulary: token ids; padding rows of the model's head are left out.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    vocabulary: int

    def hidden(self, raw: bytes) -> Tensor:
        """Hidden states [tokens, hidden] as they were kept with a sequence.

        Raises:
            LogitsError: the bytes are not those of whole hidden states.
        """
        width, size = self.weight.shape[1], self.weight.element_size()
        if len(raw) % (width * size):
            raise LogitsError(
                f"kept hidden states of {len(raw)} bytes are no multiple of {width} numbers of {self.weight.dtype}; "
                "materialise teacher_logits again"
            )
        if not raw:
            return self.weight.new_empty(0, width)
        return torch.frombuffer(bytearray(raw), dtype=self.weight.dtype).view(-1, width)


def kept_bytes(hidden: Tensor) -> bytes:
    """Hidden states as bytes, row after row, in their own precision; the inverse of `SavedHead.hidden`."""
    return hidden.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def save_head(folder: Path, model: PreTrainedModel, vocabulary: int) -> None:
    """Writes the output head of a model into a folder; the settings last, so that a head with settings is whole."""
    head = cast(Any, model).get_output_embeddings()
    config = model.config.get_text_config()
    weights = {"weight": head.weight, "bias": getattr(head, "bias", None)}
    kept = {
        name: values.detach()[:vocabulary].cpu().contiguous() for name, values in weights.items() if values is not None
    }
    write_file(folder / WEIGHTS_FILE, lambda aside: save_file(kept, aside))
    settings = {"scale": _scale(config), "softcap": getattr(config, "final_logit_softcapping", None)}
    write_json(folder / SETTINGS_FILE, settings)


def load_head(folder: Path) -> SavedHead:
    """Reads what `save_head` wrote.

    Raises:
        LogitsError: the weights are missing or damaged.
        StorageError: the settings are.
    """
    settings = read_json(folder / SETTINGS_FILE)
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
        weight = weights["weight"]
    except (OSError, KeyError, SafetensorError) as problem:
        raise LogitsError(
            f"{path}: the teacher's output head is missing or damaged ({problem}); materialise teacher_logits again"
        ) from None
    return SavedHead(weight, weights.get("bias"), settings["scale"], settings["softcap"], len(weight))


def _scale(config: Any) -> float:
    """The one factor of Cohere's `logit_scale`, which multiplies, and Granite's `logits_scaling`, which divides."""
    factor, divisor = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
    return (1.0 if factor is None else factor) / (1.0 if divisor is None else divisor)
