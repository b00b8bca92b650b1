"""The `teacher:` block: who answers, how, and for how much."""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distill_dagster.spec.base import SpecModel

Dtype = Literal["bfloat16", "float16", "float32"]
LOCAL_PROVIDERS = frozenset({"transformers"})


class PriceSpec(SpecModel):
    """Dollars per million tokens, for a model the shipped table does not know or prices differently."""

    input: Annotated[Decimal, Field(ge=0)]
    output: Annotated[Decimal, Field(ge=0)]


class TeacherSpec(SpecModel):
    """The model whose answers the students learn."""

    provider: Literal["transformers", "anthropic"]
    model: str = Field(
        min_length=1,
        description="Anthropic model id; or, for `transformers`, a folder (relative to the YAML file or the project), "
        "a folder's name under `.models/`, or a hub id.",
    )
    dtype: Dtype = Field("bfloat16", description="Precision of a local teacher: part of its identity.")
    max_tokens: int = Field(512, ge=1, description="Longest answer, in tokens; longer ones end as `truncated`.")
    stop_sequences: list[str] = Field([], description="Texts that end an answer.")
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="anthropic: `output_config.effort`."
    )
    thinking_tokens: int | None = Field(
        None, ge=1024, description="anthropic: budget of extended thinking; off when absent."
    )
    transport: Literal["messages"] = Field("messages", description="anthropic: one request per prompt.")
    concurrency: int = Field(32, ge=1, le=1024, description="Requests in flight at a hosted teacher.")
    batch_size: int = Field(
        32, ge=1, description="Prompts per forward pass of a local teacher; no part of its identity."
    )
    budget_usd: Annotated[Decimal, Field(gt=0)] | None = Field(None, description="Hard stop for this distillation.")
    prices: PriceSpec | None = Field(None, description="Instead of the shipped price table.")
    authorization: str | None = Field(
        None, description="How the provider permits this use; recorded in lineage and the model card."
    )
    base_url: str | None = Field(None, description="anthropic: another endpoint, e.g. a gateway.")

    @model_validator(mode="after")
    def _fits_provider(self) -> Self:
        if self.provider in LOCAL_PROVIDERS:
            hosted = [
                name
                for name in ("effort", "thinking_tokens", "budget_usd", "prices", "base_url")
                if getattr(self, name) is not None
            ]
            if hosted:
                raise ValueError(f"{', '.join(hosted)}: only for a hosted teacher; provider is {self.provider}")
        elif "dtype" in self.model_fields_set:
            raise ValueError("dtype: only for `provider: transformers`; a hosted teacher chooses its own precision")
        return self

    @property
    def is_local(self) -> bool:
        """Whether the teacher runs in the worker, on this machine."""
        return self.provider in LOCAL_PROVIDERS
