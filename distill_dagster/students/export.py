"""Saves a student as a plain Hugging Face folder that answers greedily and stops where its turn ends."""

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from distill_dagster.errors import StudentError
from distill_dagster.storage import new_folder
from distill_dagster.teachers.local.chat_model import stop_ids


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype, folder: Path) -> None:
    """Saves model, tokenizer and generation settings; greedy answers stop at every id that can end a turn.

    `folder` appears whole or not at all, and replaces what an earlier start left there. The model keeps `dtype`.
    """
    ends = sorted(stop_ids(model, tokenizer, StudentError))
    model.generation_config = cast(Any, GenerationConfig)(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
    )
    model.config.use_cache = True
    cast_weights(model, dtype)
    shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Changes the precision of all parameters, tied ones together, and of nothing else.

    `Module.to` would also round the rotary frequencies, which models keep in float32 whatever their weights are.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
