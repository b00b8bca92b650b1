"""What a running training tells: a line a step, and a checkpoint when it has to end."""

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distill_dagster.lifeline import Termination
from distill_dagster.progress_file import ProgressWriter

STAGE = "training"


class Reporter(TrainerCallback):
    """Reports every step, and on SIGTERM has a checkpoint saved and training stopped."""

    def __init__(self, progress: ProgressWriter, termination: Termination, stage: str = STAGE) -> None:
        self._progress = progress
        self._termination = termination
        self._stage = stage
        self._since = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Says where training begins; not at step 0 where it is resumed."""
        self._since = time.monotonic()
        self._progress.report(self._stage, state.global_step, state.max_steps, "steps")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """One line a step, and one after each validation."""
        logs = logs or {}
        if "loss" in logs:
            now = time.monotonic()
            metrics = {"loss": logs["loss"]}
            if "tokens" in logs:
                metrics["tokens_per_second"] = round(logs["tokens"] / max(now - self._since, 1e-9), 1)
            self._since = now
            self._progress.report(self._stage, state.global_step, state.max_steps, "steps", **metrics)
        elif "eval_loss" in logs:
            self._since = time.monotonic()
            loss = logs["eval_loss"]
            self._progress.report(self._stage, state.global_step, state.max_steps, "steps", validation_loss=loss)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ends training at this step once SIGTERM has come."""
        if self._termination.requested:
            control.should_save = True
            control.should_training_stop = True
