"""Loads what a student starts from: a model as it is, or one whose least influential layers are left out.

Block influence of a layer is 1 - the mean cosine similarity between its input and its output hidden states
(ShortGPT, https://arxiv.org/abs/2403.03853): a layer that hardly turns its input can be missed most easily.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from distill_dagster.errors import StudentError
from distill_dagster.jobs import ModelRef, PrunedBase
from distill_dagster.teachers.local.chat_model import load_model

CALIBRATION_ROWS = 64
_CALIBRATION_BATCH = 8


@dataclass(frozen=True)
class Base:
    """A model to train, in float32, with what was decided about it.

    `stored_dtype` is the precision its weights were published in; checkpoints are saved in it.
    """

    model: PreTrainedModel
    stored_dtype: torch.dtype
    kept_layers: list[int] | None = None
    block_influence: list[float] | None = None


def load_base(base: ModelRef | PrunedBase, calibration: Sequence[list[int]]) -> Base:
    """Loads a base in float32 and prunes it where that is declared.

    Args:
        base: what to load.
        calibration: token ids of prompts with completions, on which layers are measured; unused without pruning.

    Raises:
        StudentError: the model cannot be loaded, has fewer layers than are to be kept, or hides its layers.
    """
    ref = base.model if isinstance(base, PrunedBase) else base
    model = load_model(ref, torch.float32, StudentError)
    stored = stored_dtype(ref)
    if not isinstance(base, PrunedBase):
        return Base(model, stored)
    name, layers = decoder_layers(model, ref.source)
    if base.layers > len(layers):
        raise StudentError(
            f"{ref.source} has {len(layers)} layers, so {base.layers} cannot be kept; write a smaller `layers`"
        )
    influence = block_influence(model, layers, calibration)
    kept = most_influential(influence, base.layers)
    keep_layers(model, name, layers, kept)
    return Base(model, stored, kept, influence)


def stored_dtype(ref: ModelRef) -> torch.dtype:
    """The precision a model's weights were published in, as its config says; float32 where it does not."""
    config = AutoConfig.from_pretrained(
        ref.source, trust_remote_code=ref.trust_remote_code, **({"revision": ref.revision} if ref.revision else {})
    )
    dtype = getattr(config, "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def decoder_layers(model: PreTrainedModel, source: str) -> tuple[str, nn.ModuleList]:
    """The list of decoder layers and its dotted name within the model.

    Raises:
        StudentError: there is no such list.
    """
    expected = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == expected:
            return name, module
    raise StudentError(
        f"{source}: a {type(model).__name__} keeps no plain list of its {expected} layers, so it cannot be pruned; "
        "name a smaller model as the base instead"
    )


@torch.inference_mode()
def block_influence(model: PreTrainedModel, layers: nn.ModuleList, calibration: Sequence[list[int]]) -> list[float]:
    """1 - mean cosine similarity of every layer's input and output, over all tokens of the calibration rows."""
    similarity = torch.zeros(len(layers), dtype=torch.float64)
    tokens = 0
    ordered = sorted(calibration, key=len)
    was_training = model.training
    model.train(False)
    for start in range(0, len(ordered), _CALIBRATION_BATCH):
        rows = ordered[start : start + _CALIBRATION_BATCH]
        mask = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)  # [rows, time]
        input_ids = torch.zeros_like(mask)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        with _measured(layers, similarity, mask.bool()):
            cast(Any, model).base_model(input_ids=input_ids, attention_mask=mask, use_cache=False)
        tokens += int(mask.sum())
    model.train(was_training)
    return [1.0 - value / max(tokens, 1) for value in cast(list[float], similarity.tolist())]


@contextmanager
def _measured(layers: nn.ModuleList, similarity: Tensor, real: Tensor) -> Iterator[None]:
    """Adds each layer's cosine similarities at `real` positions ([rows, time]) to `similarity` ([layers])."""

    def hook(index: int) -> Any:
        def measure(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = cast(Tensor, args[0] if args else kwargs["hidden_states"])
            after = cast(Tensor, output[0] if isinstance(output, tuple) else output)
            cosine = F.cosine_similarity(before.float(), after.float(), dim=-1)
            similarity[index] += cosine[real].double().sum()

        return measure

    handles = [layer.register_forward_hook(hook(index), with_kwargs=True) for index, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def most_influential(influence: Sequence[float], count: int) -> list[int]:
    """Indices of the `count` most influential layers, in the model's order; of equal layers the earlier stays."""
    ranked = sorted(range(len(influence)), key=lambda index: (-influence[index], index))
    return sorted(ranked[:count])


def keep_layers(model: PreTrainedModel, name: str, layers: nn.ModuleList, kept: Sequence[int]) -> None:
    """Leaves only the `kept` layers in the model, and makes its config and key-value cache agree with that."""
    config = model.config.get_text_config()
    before = len(layers)
    model.set_submodule(name, nn.ModuleList([layers[index] for index in kept]))
    for index, layer in enumerate(cast(nn.ModuleList, model.get_submodule(name))):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                cast(Any, module).layer_idx = index
    for key, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == before:
            setattr(config, key, [value[index] for index in kept])
    config.num_hidden_layers = len(kept)
