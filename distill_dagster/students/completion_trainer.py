"""Output distillation: TRL's SFTTrainer with the loss, data and batches that distillation from logits uses too."""

from typing import Any

from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from distill_dagster.students.trainer import CompletionLoss


class CompletionTrainer(CompletionLoss, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer on another road to the same loss: its own scores prompt positions too where it has no GPU kernel."""

    @staticmethod
    def positions(count: int) -> Any:
        """A data set that stands for `count` rows, of the class that TRL insists on."""
        return Dataset.from_dict({"position": range(count)})


def completion_settings(settings: dict[str, Any]) -> SFTConfig:
    """Settings in TRL's words: rows come tokenised, and none is too long."""
    return SFTConfig(
        **settings,
        activation_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        completion_only_loss=True,
        max_length=None,
        packing=False,
    )
