"""TRL's chunked divergence with the teacher in memory, off-policy, forward KL.

`trl/kernels/chunked_divergence.py` has no off-policy trainer of its own; this is the least that makes it one. On a CPU
TRL's own wrapper scores masked positions too; here only completion positions reach it, which is faster.
"""

from typing import Any, cast

import torch
import transformers
from torch import Tensor
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from benchmarks.training_rivals.loop import (
    FixedBatches,
    collate,
    load_rows,
    load_student,
    load_teacher,
    settings_of_all,
    train_and_report,
)
from benchmarks.training_rivals.setting import Setting


class Trainer(FixedBatches, transformers.Trainer):
    """Both backbones, completion positions only, then TRL's function."""

    # the loss divides by the window's completion tokens
    loss_is_scaled_for_ga = True
    teacher: Any

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Forward KL summed over completion tokens, divided by their number."""
        target = inputs["labels"][:, 1:] != -100  # [rows, time - 1]
        with self.accelerator.autocast():
            student_hidden = self._hidden(model, inputs)[target]  # [targets, hidden]
            with torch.no_grad():
                teacher_hidden = self._hidden(self.teacher, inputs)[target]
            divergence, _ = ChunkedDivergenceFunction.apply(
                student_hidden, model.lm_head.weight, None, teacher_hidden, self.teacher.lm_head.weight, None, 0.0
            )
        return divergence.sum() / (len(divergence) if num_items_in_batch is None else num_items_in_batch)

    @staticmethod
    def _hidden(model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Hidden states that predict the next token: [rows, time - 1, hidden]."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        return cast(Tensor, model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state)[:, :-1]


def main() -> None:
    setting = Setting.from_command_line()
    student, tokenizer = load_student(setting)
    trainer = Trainer(
        model=student,
        args=transformers.TrainingArguments(**settings_of_all(setting)),
        data_collator=collate,
        train_dataset=load_rows(setting),
        processing_class=tokenizer,
    )
    trainer.teacher = load_teacher(setting)
    train_and_report(trainer, setting)


if __name__ == "__main__":
    main()
