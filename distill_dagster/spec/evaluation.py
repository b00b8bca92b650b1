"""The `golden_set:` and `evaluation:` blocks: what is measured, and how much loss is acceptable."""

from decimal import Decimal
from typing import Annotated, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from distill_dagster.spec.base import SpecModel
from distill_dagster.spec.harness import HarnessSpec
from distill_dagster.spec.judge import PairJudgeSpec
from distill_dagster.spec.metrics import MACRO_F1, MetricEntry, check_metrics, metric_name


class GateSpec(SpecModel):
    """The largest acceptable loss against the teacher on the golden set, declared before anything is measured."""

    metric: str
    max_degradation: float = Field(ge=0, le=1, description="On the metric's 0-1 scale.")
    min_score: float | None = Field(
        None, ge=0, le=1, description="Least score of the student's own, for a poor teacher is a poor yardstick."
    )
    slices: bool = Field(False, description="Whether each slice of the golden set has to pass as well.")
    alpha: float = Field(
        0.05,
        gt=0,
        le=0.1,
        description="Chance of passing a student that is worse than allowed, over all looks and candidates.",
    )
    candidates: list[str] | None = Field(
        None, min_length=1, description="Students that may be released; `alpha` is split among them. Default: all."
    )


class CostSpec(SpecModel):
    """What the machine that answers costs; without it a model on this machine has seconds and no dollars."""

    usd_per_hour: Annotated[Decimal, Field(gt=0)] = Field(description="Dollars an hour, while models answer.")


class EvaluationSpec(SpecModel):
    """What is measured on the test split."""

    metrics: list[MetricEntry] = Field(
        ["rouge_l", "chrf", "exact_match"],
        min_length=1,
        description="The first is the report's main one, unless the gate names another.",
    )
    gate: GateSpec | None = Field(None, description="Decided on the golden set; it guards `release/<student>`.")
    harness: HarnessSpec | None = Field(None, description="Tasks of lm-evaluation-harness beside the test split.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer; default: the teacher's max_tokens.")
    batch_size: int = Field(32, ge=1, description="Prompts per forward pass when answering.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the intervals.")
    judge: PairJudgeSpec | None = Field(None, description="A model that compares answers two at a time.")
    held_out_partitions: list[Annotated[str, StringConstraints(min_length=1)]] = Field(
        [],
        description="Partitions kept whole out of training, validation and test, and reported apart: "
        "out of distribution.",
    )
    teacher_resample: bool | Annotated[int, Field(ge=1)] = Field(
        False,
        description="Hosted teachers: a second answer to every test prompt, or to so many of them, as the ceiling of "
        "closeness. Paid once, from the budget.",
    )
    cost: CostSpec | None = Field(None, description="Puts models on this machine and a hosted teacher on one axis.")

    @model_validator(mode="after")
    def _metrics_are_told_apart(self) -> Self:
        check_metrics(self.metrics)
        return self

    @field_validator("held_out_partitions", mode="before")
    @classmethod
    def _partitions_are_texts(cls, names: object) -> object:
        if isinstance(names, list) and not all(isinstance(name, str) for name in names):
            raise ValueError("YAML reads 2026-01-31 as a date, 07 as a number and no as false; write names in quotes")
        return names

    @field_validator("teacher_resample", mode="before")
    @classmethod
    def _asked_again(cls, wanted: object) -> object:
        if isinstance(wanted, bool) or (isinstance(wanted, int) and wanted >= 1):
            return wanted
        raise ValueError(f"write true for every test prompt, a number of them, or false (seen: {wanted!r})")

    @property
    def metric_names(self) -> list[str]:
        """What the metrics are called in columns, reports and the gate."""
        return [metric_name(entry) for entry in self.metrics]

    @property
    def primary_metric(self) -> str:
        """The gate's metric, else the first with a score per row."""
        return self.gate.metric if self.gate else next(name for name in self.metric_names if name != MACRO_F1)
