"""Our own trainer on captured logits: no teacher in memory."""

import time
from pathlib import Path
from typing import Any

import polars as pl
import transformers
from transformers import PreTrainedTokenizerBase

from benchmarks.training_rivals.loop import FixedBatches, load_student, settings_of_all, train_and_report
from benchmarks.training_rivals.setting import Setting
from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.logits.targets_file import build_targets_file
from distill_dagster.students.freed_memory import KeepFreedMemory, lay_out_memory
from distill_dagster.students.learning import Learning
from distill_dagster.students.losses import Divergence, LossSettings
from distill_dagster.students.objectives import CompletionObjective, LogitObjective, Objective
from distill_dagster.students.tokens import TokenisedRows
from distill_dagster.students.trainer import LogitTrainer

# `sampled` is the forward KL on drawn targets
DIVERGENCES = {
    "forward_kl": Divergence.FORWARD_KL,
    "sampled": Divergence.FORWARD_KL,
    "reverse_kl": Divergence.REVERSE_KL,
    "jsd": Divergence.JSD,
}


class Fixed(FixedBatches):
    """Our trainers in a fixed order."""

    @property
    def rows(self) -> range:
        """The collator looks them up by number."""
        return range(len(self.train_dataset))

    @property
    def collator(self) -> Any:
        """The trainer's own."""
        return self._collator  # type: ignore[attr-defined]

    def begin_epoch(self, epoch: int) -> None:
        """Each epoch has its own draws."""
        self._batches.set_epoch(epoch)  # type: ignore[attr-defined]


def run_ours(setting: Setting) -> None:
    """Trains and reports as a student's worker does; decoding the captured targets counts as training."""
    lay_out_memory()
    started = time.perf_counter()
    train = TokenisedRows(pl.read_parquet(Path(setting.work) / "rows.parquet"), [], [])
    preparing = time.perf_counter() - started
    student, tokenizer = load_student(setting)
    started = time.perf_counter()
    objective = make_objective(setting, tokenizer)
    preparing += time.perf_counter() - started
    learning = Learning(train, TokenisedRows(train.rows.clear(), [], []), objective)
    loop, args = loop_and_settings(setting)
    fixed: Any = type("FixedOrder", (Fixed, loop), {})
    trainer = fixed.over(model=student, args=args, tokenizer=tokenizer, learning=learning)
    trainer.add_callback(KeepFreedMemory(bf16=args.bf16))
    train_and_report(trainer, setting, preparing)


def loop_and_settings(setting: Setting) -> tuple[type, transformers.TrainingArguments]:
    """The trainer of an objective and its arguments; TRL is loaded only for the one that stands on it."""
    settings = settings_of_all(setting)
    if setting.objective != "sft":
        return LogitTrainer, transformers.TrainingArguments(**settings)
    from trl.trainer.sft_config import SFTConfig

    from distill_dagster.students.completion_trainer import CompletionTrainer

    return CompletionTrainer, SFTConfig(**settings, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})


def make_objective(setting: Setting, tokenizer: PreTrainedTokenizerBase) -> Objective:
    """What the setting's objective is to our trainer."""
    if setting.objective == "sft":
        return CompletionObjective()
    assert setting.captured is not None
    captured, vocabulary = Path(setting.captured), len(tokenizer)
    targets = build_targets_file(
        Path(setting.work) / "targets" / captured.name,
        pl.read_parquet(captured / "rows.parquet"),
        captured,
        CaptureIdentity.model_validate_json((captured / "identity.json").read_text(encoding="utf-8")),
        vocabulary,
        1.0,
    )
    return LogitObjective(LossSettings(DIVERGENCES[setting.objective]), targets, targets, None, vocabulary)
