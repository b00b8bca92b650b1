"""What an answer has to be, and which of several is kept: parts of the `teacher:` block."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from distill_dagster.spec.base import SpecModel
from distill_dagster.spec.metrics import ReferenceMetricName
from distill_dagster.spec.money import PriceSpec

Label = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
JsonSchema = str | dict[str, Any]


class JudgeSpec(SpecModel):
    """A hosted model that scores each answer from 1 to 10 under a rubric; paid from the distillation's budget."""

    provider: Literal["anthropic", "openai"] = "anthropic"
    model: str = Field(min_length=1)
    rubric: str = Field(
        "Correct, complete, and as brief as the question allows.", min_length=1, description="What a good answer is."
    )
    max_tokens: int = Field(256, ge=32, description="Longest verdict, in tokens.")
    base_url: str | None = None
    revision: str | None = None
    prices: PriceSpec | None = None

    @model_validator(mode="after")
    def _has_a_server(self) -> Self:
        if self.provider == "openai" and self.base_url is None:
            raise ValueError("base_url: needed for provider openai, e.g. http://localhost:8000/v1")
        return self


class BestSpec(SpecModel):
    """How samples are scored; exactly one of the keys. The highest score wins, then the smaller sample."""

    metric: ReferenceMetricName | None = Field(None, description="Against the prompt's reference.")
    judge: JudgeSpec | None = Field(None, description="A model's score.")
    python: str | None = Field(
        None, description="`module.function` beside the YAML file: (prompt, completion, reference) → number."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("metric", "judge", "python") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"write exactly one of metric, judge, python (seen: {' and '.join(given) or 'none'})")
        return self


class BestOf(SpecModel):
    """The best-scored valid sample of each prompt (rejection sampling)."""

    best: BestSpec


SelectSpec = Literal["all", "first_valid"] | BestOf

Share = Annotated[float, Field(ge=0, le=1)]


class ThresholdsSpec(SpecModel):
    """Largest acceptable shares of a distillation's answers."""

    refused: Share = 0.05
    truncated: Share = 0.05
    error: Share = 0.01
    invalid: Share = Field(0.05, description="Answers that are no declared label or do not match the schema.")
