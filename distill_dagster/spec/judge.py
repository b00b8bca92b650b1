"""The `evaluation.judge:` block: a model that compares the student's answers with others', two at a time."""

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from distill_dagster.spec.base import SpecModel
from distill_dagster.spec.money import PriceSpec
from distill_dagster.spec.teacher import LOCAL_PROVIDERS, Dtype, Effort, TeacherSpec

Opponent = Literal["teacher", "base", "reference"]
# Keys of the block that say what is compared, not who compares.
_COMPARISON_KEYS = frozenset({"rubric", "rows", "against"})


class PairJudgeSpec(SpecModel):
    """A model that reads two answers to a prompt, in both orders, and says which is better under a rubric."""

    provider: Literal["transformers", "anthropic", "openai"] = Field(
        description="Who judges; what a hosted judge costs counts towards `teacher.budget_usd`."
    )
    model: str = Field(min_length=1, description="As in `teacher`.")
    rubric: str = Field(
        "Correct, complete, and as brief as the question allows.", min_length=1, description="What a good answer is."
    )
    rows: int | None = Field(
        200, ge=1, description="Most test rows that are judged, chosen by hash; null judges all of them."
    )
    against: list[Opponent] = Field(
        ["teacher"], min_length=1, description="Whose answers the student's are compared with."
    )
    max_tokens: int = Field(256, ge=16, description="Longest verdict, thinking included, in tokens.")
    dtype: Dtype = Field("bfloat16", description="Precision of a local judge.")
    engine: Literal["transformers", "vllm"] = Field("transformers", description="What runs a local judge.")
    batch_size: int = Field(32, ge=1, description="Most comparisons per forward pass of a local judge.")
    batch_tokens: int | None = Field(None, ge=1, description="As in `teacher`, for a local judge.")
    effort: Effort | None = Field(None, description="anthropic: `output_config.effort`.")
    thinking_tokens: int | None = Field(None, ge=1024, description="anthropic: budget of extended thinking.")
    transport: Literal["messages", "batches", "auto"] = Field("messages", description="anthropic: as in `teacher`.")
    revision: str | None = Field(None, description="openai: which state of the model the server has.")
    temperature: float | None = Field(None, ge=0, le=2, description="openai: the server's if absent.")
    base_url: str | None = Field(None, description="As in `teacher`.")
    concurrency: int = Field(32, ge=1, le=1024, description="Most requests in flight at a hosted judge.")
    requests_per_minute: int | None = Field(None, ge=1, description="As in `teacher`.")
    tokens_per_minute: int | None = Field(None, ge=1, description="As in `teacher`.")
    prices: PriceSpec | None = Field(None, description="Instead of the price table.")

    @model_validator(mode="after")
    def _is_a_model_that_can_be_asked(self) -> Self:
        try:
            self.as_teacher()
        except ValidationError as error:
            told = "; ".join(str(problem["msg"]).removeprefix("Value error, ") for problem in error.errors())
            raise ValueError(told) from None
        if self.thinking_tokens is not None and self.thinking_tokens >= self.max_tokens:
            raise ValueError(
                f"max_tokens: {self.max_tokens} leaves no room for a verdict after thinking_tokens: "
                f"{self.thinking_tokens}; write at least {self.thinking_tokens + 256}"
            )
        return self

    @model_validator(mode="after")
    def _opponents_are_told_apart(self) -> Self:
        if len(set(self.against)) < len(self.against):
            raise ValueError(f"against: name each opponent once (seen: {', '.join(self.against)})")
        return self

    @property
    def is_local(self) -> bool:
        """Whether the judge runs in the worker, on this machine."""
        return self.provider in LOCAL_PROVIDERS

    @property
    def label(self) -> str:
        """The judge as reports name it."""
        return f"{self.model} ({self.provider})"

    def as_teacher(self, json_schema: dict[str, Any] | None = None) -> TeacherSpec:
        """The judge as a teacher whose answers are verdicts.

        Args:
            json_schema: what a hosted judge's answers are held to.

        Raises:
            ValidationError: keys that do not go with its provider.
        """
        keys = self.model_fields_set - _COMPARISON_KEYS | {"max_tokens"}
        written = {key: getattr(self, key) for key in keys if getattr(self, key) is not None}
        return TeacherSpec.model_validate(written | ({} if json_schema is None else {"json_schema": json_schema}))
