"""Keeps the weights of the best validation, and stops a training that no longer gets better."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distill_dagster.storage import write_file


class BestWeights(TrainerCallback):
    """Saves what is trained whenever validation was never better.

    The training loop's own log says which step that was, and it outlives a resumed training; the file is named after
    the step.
    """

    def __init__(self, folder: Path, patience: int | None) -> None:
        """Args:
        folder: where the weights are kept, one file.
        patience: validations without improvement before training stops; None never stops it.
        """
        self._folder = folder
        self._patience = patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Keeps the weights or counts towards the end."""
        validations = _validations(state)
        best = best_step(state)
        if best == state.global_step:
            if state.is_world_process_zero and best < state.max_steps:  # the last weights are at hand anyway
                self._save(model, best)
        elif self._patience is not None:
            since = sum(1 for step, _ in validations if step > best)
            control.should_training_stop = control.should_training_stop or since >= self._patience

    def restore(self, model: Any, state: TrainerState) -> int:
        """Gives a trained model the weights of its best validation; returns that step."""
        best = best_step(state)
        if best != state.global_step:
            weights = load_file(self._path(best))
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name in weights:
                        parameter.copy_(weights[name])
        return best

    def _save(self, model: Any, step: int) -> None:
        weights = {
            name: parameter.detach().contiguous()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        write_file(self._path(step), lambda aside: save_file(weights, aside))
        # the one before stays: a training resumed from before this step still refers to it
        for old in sorted(self._folder.glob("best-*.safetensors"), key=_step_of)[:-2]:
            old.unlink()

    def _path(self, step: int) -> Path:
        return self._folder / f"best-{step}.safetensors"


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("best-"))


def best_step(state: TrainerState) -> int:
    """The step of the lowest validation loss, the first of equals; the last step where nothing was validated."""
    validations = _validations(state)
    if not validations:
        return int(state.global_step)
    return min(validations, key=lambda entry: (entry[1], entry[0]))[0]


def _validations(state: TrainerState) -> list[tuple[int, float]]:
    return [(int(entry["step"]), entry["eval_loss"]) for entry in state.log_history if "eval_loss" in entry]
