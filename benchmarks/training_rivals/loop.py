"""What the systems built on transformers' Trainer share: data, order, settings, and the clock."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from benchmarks.training_rivals.setting import Setting
from benchmarks.training_rivals.turns import wait_for_turn
from distill_dagster.process import peak_memory_bytes


def load_rows(setting: Setting) -> list[dict[str, Any]]:
    """Rows with input_ids and prompt_tokens, by row number."""
    columns = ["input_ids", "prompt_tokens"]
    return pl.read_parquet(Path(setting.work) / "rows.parquet", columns=columns).to_dicts()


def load_student(setting: Setting) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The pruned start in float32, and its tokenizer."""
    torch.set_num_threads(setting.threads)
    base = Path(setting.work) / "base"
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), AutoTokenizer.from_pretrained(base)


def load_teacher(setting: Setting) -> PreTrainedModel:
    """The teacher in float32; in bf16 runs it computes under autocast, as the student does."""
    model = AutoModelForCausalLM.from_pretrained(setting.teacher, dtype=torch.float32)
    model.train(False)
    return model


def settings_of_all(setting: Setting) -> dict[str, Any]:
    """Training arguments that are the same for every system."""
    return {
        "output_dir": str(Path(setting.work) / "trainer"),
        "max_steps": len(setting.batches),
        "per_device_train_batch_size": max(map(len, setting.batches)),
        "learning_rate": setting.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": setting.learning_rate_warm_up,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "bf16": setting.precision == "bf16",
        "activation_checkpointing": False,
        "use_cpu": True,
        "seed": setting.seed,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": "none",
    }


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Right-padded input_ids, attention_mask and labels, -100 at prompt and padding: [rows, time]."""
    width = max(len(row["input_ids"]) for row in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, -100)
    for index, row in enumerate(rows):
        ids = torch.tensor(row["input_ids"])
        input_ids[index, : len(ids)] = ids
        attention_mask[index, : len(ids)] = 1
        labels[index, row["prompt_tokens"] : len(ids)] = ids[row["prompt_tokens"] :]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


class FixedBatches:
    """Feeds a Trainer, whatever it is, the batches of the setting in their order."""

    batches: list[list[int]]
    epochs: int
    train_dataset: Any
    data_collator: Any

    @property
    def rows(self) -> Any:
        """The rows by number."""
        return self.train_dataset

    @property
    def collator(self) -> Any:
        """Makes a batch of rows."""
        return self.data_collator

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first batch of each epoch."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """All batches of all epochs, as one pass."""
        return DataLoader(self.rows, batch_sampler=_Order(self), collate_fn=self.collator)


class _Order:
    def __init__(self, trainer: FixedBatches) -> None:
        self._trainer = trainer

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._trainer.batches
        steps = len(batches) // self._trainer.epochs
        for number, batch in enumerate(batches):
            if number % steps == 0:
                self._trainer.begin_epoch(number // steps)
            yield batch

    def __len__(self) -> int:
        return len(self._trainer.batches)


class Clock(TrainerCallback):
    """How long each step took, in seconds; between two of them it waits for its turn where that is asked for."""

    def __init__(self, *, takes_turns: bool) -> None:
        self.seconds: list[float] = []
        self._takes_turns = takes_turns
        self._began = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The first step begins."""
        self._begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """One ends and the next begins."""
        self.seconds.append(time.perf_counter() - self._began)
        self._begin()

    def _begin(self) -> None:
        if self._takes_turns:
            wait_for_turn()
        self._began = time.perf_counter()


def train_and_report(trainer: Any, setting: Setting, preparing_s: float = 0.0) -> None:
    """Trains, prints what was measured as one line of JSON, and saves the student where that is asked for.

    `preparing_s` is time that went before and belongs to training.
    """
    clock = Clock(takes_turns=setting.takes_turns)
    trainer.batches, trainer.epochs = setting.batches, setting.epochs
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    assert not trainer.model.is_gradient_checkpointing
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started + preparing_s
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    report(setting, losses, clock.seconds, seconds)
    if setting.save_to:
        trainer.model.save_pretrained(setting.save_to)
        AutoTokenizer.from_pretrained(Path(setting.work) / "base").save_pretrained(setting.save_to)


def report(setting: Setting, losses: list[float], steps: list[float], seconds: float) -> None:
    """Prints the result of a run, whose steps took so long; a step's completion tokens are those its loss saw."""
    rows = load_rows(setting)
    tokens = [
        sum(len(rows[row]["input_ids"]) - rows[row]["prompt_tokens"] for row in batch) for batch in setting.batches
    ]
    first = setting.warm_up_steps
    measured = sum(steps[first:])
    result = {
        "system": setting.system,
        "precision": setting.precision,
        "losses": losses,
        "steps": len(tokens),
        "tokens": sum(tokens),
        "tokens_per_second": sum(tokens[first:]) / measured if measured else None,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    sys.stdout.flush()
    print(json.dumps(result), flush=True)
