"""TRL's GKDTrainer, off-policy (`lmbda=0`), forward KL (`beta=0`), the teacher in memory."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl.experimental.gkd import GKDConfig, GKDTrainer

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


class Trainer(FixedBatches, GKDTrainer):
    """GKDTrainer in a fixed order."""


def collate_with_prompts(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """`collate`, and the prompts by themselves, which the trainer would complete were it on-policy."""
    width = max(row["prompt_tokens"] for row in rows)
    prompts = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(prompts)
    for index, row in enumerate(rows):
        prompts[index, width - row["prompt_tokens"] :] = torch.tensor(row["input_ids"][: row["prompt_tokens"]])
        mask[index, width - row["prompt_tokens"] :] = 1
    return collate(rows) | {"prompts": prompts, "prompt_attention_mask": mask}


def main() -> None:
    setting = Setting.from_command_line()
    student, tokenizer = load_student(setting)
    trainer = Trainer(
        model=student,
        teacher_model=load_teacher(setting),
        args=GKDConfig(
            **settings_of_all(setting),
            lmbda=0.0,
            beta=0.0,
            temperature=1.0,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        data_collator=collate_with_prompts,
        train_dataset=Dataset.from_list(load_rows(setting)),
        processing_class=tokenizer,
    )
    train_and_report(trainer, setting)


if __name__ == "__main__":
    main()
