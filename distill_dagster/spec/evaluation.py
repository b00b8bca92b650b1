"""The `golden_set:` and `evaluation:` blocks: what is measured, and how much loss is acceptable."""

from typing import Literal

from pydantic import Field

from distill_dagster.spec.base import SpecModel

MetricName = Literal["rouge_l", "chrf", "exact_match"]


class GateSpec(SpecModel):
    """The largest acceptable loss against the teacher, set before anything is measured."""

    metric: str
    max_degradation: float = Field(ge=0, le=1, description="On the metric's 0-1 scale.")


class EvaluationSpec(SpecModel):
    """What is measured on the test split."""

    metrics: list[MetricName] = Field(["rouge_l", "chrf", "exact_match"], min_length=1)
    gate: GateSpec | None = Field(None, description="Declared and reported; it is not decided yet.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer; default: the teacher's max_tokens.")
    batch_size: int = Field(32, ge=1, description="Prompts per forward pass when answering.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the intervals.")
