"""TRL's SFTTrainer on the teacher's completions: no teacher in memory, and no distribution to learn from."""

from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from benchmarks.training_rivals.loop import (
    FixedBatches,
    collate,
    load_rows,
    load_student,
    settings_of_all,
    train_and_report,
)
from benchmarks.training_rivals.setting import Setting


class Trainer(FixedBatches, SFTTrainer):
    """SFTTrainer in a fixed order."""


def main() -> None:
    setting = Setting.from_command_line()
    student, tokenizer = load_student(setting)
    trainer = Trainer(
        model=student,
        args=SFTConfig(**settings_of_all(setting), max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
        data_collator=collate,
        train_dataset=Dataset.from_list(load_rows(setting)),
        processing_class=tokenizer,
    )
    train_and_report(trainer, setting)


if __name__ == "__main__":
    main()
