"""The `teacher:` block: who answers, how, and for how much."""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from distill_dagster.spec.answers import JsonSchema, Label, SelectSpec, ThresholdsSpec
from distill_dagster.spec.base import SpecModel
from distill_dagster.spec.money import PriceSpec
from distill_dagster.spec.prompts import FewShot

Dtype = Literal["bfloat16", "float16", "float32"]
Effort = Literal["low", "medium", "high", "xhigh", "max"]
LOCAL_PROVIDERS = frozenset({"transformers"})
# Which keys of the block mean something for which providers; the others are for all of them.
ONLY_FOR: dict[str, frozenset[str]] = {
    "dtype": LOCAL_PROVIDERS,
    "engine": LOCAL_PROVIDERS,
    "batch_size": LOCAL_PROVIDERS,
    "batch_tokens": LOCAL_PROVIDERS,
    "effort": frozenset({"anthropic"}),
    "thinking_tokens": frozenset({"anthropic"}),
    "prompt_cache": frozenset({"anthropic"}),
    "transport": frozenset({"anthropic"}),
    "revision": frozenset({"openai"}),
    "temperature": frozenset({"openai"}),
    "top_p": frozenset({"openai"}),
    "seed": frozenset({"openai"}),
    "samples": frozenset({"anthropic", "openai"}),
    "prices": frozenset({"anthropic", "openai"}),
    "base_url": frozenset({"anthropic", "openai"}),
    "concurrency": frozenset({"anthropic", "openai"}),
    "requests_per_minute": frozenset({"anthropic", "openai"}),
    "tokens_per_minute": frozenset({"anthropic", "openai"}),
}
VariantName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}$")]


class VariantSpec(SpecModel):
    """Another prompt design, to compare with the declared one before the whole set is paid for; unset keys stay."""

    prompt: str | None = Field(None, description="Instead of `prompts.prompt`.")
    system: str | None = Field(None, description="Instead of `prompts.system`.")
    few_shot: FewShot | None = Field(None, description="Instead of `prompts.few_shot`; an empty list means none.")
    model: str | None = Field(None, description="Instead of `teacher.model`.")
    max_tokens: int | None = Field(None, ge=1, description="Instead of `teacher.max_tokens`.")
    effort: Effort | None = Field(None, description="Instead of `teacher.effort`.")
    thinking_tokens: int | None = Field(None, ge=1024, description="Instead of `teacher.thinking_tokens`.")

    @model_validator(mode="after")
    def _differs(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("a variant changes something: write at least one of prompt, system, few_shot, model, …")
        return self


class TeacherSpec(SpecModel):
    """The model whose answers the students learn."""

    provider: Literal["transformers", "anthropic", "openai"]
    model: str = Field(
        min_length=1,
        description="Anthropic model id; the served model's name for `openai`; or, for `transformers`, a folder "
        "(relative to the YAML file or the project), a folder's name under `.models/`, or a hub id.",
    )
    dtype: Dtype = Field("bfloat16", description="Precision of a local teacher: part of its identity.")
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="What runs a local teacher: transformers, or vLLM where it is installed."
    )
    max_tokens: int = Field(512, ge=1, description="Longest answer, in tokens; longer ones end as `truncated`.")
    stop_sequences: list[str] = Field([], description="Texts that end an answer.")
    effort: Effort | None = Field(None, description="anthropic: `output_config.effort`.")
    thinking_tokens: int | None = Field(
        None, ge=1024, description="anthropic: budget of extended thinking; off when absent."
    )
    revision: str | None = Field(
        None,
        description="openai: which state of the model the server has, e.g. a commit. Part of the identity: change it "
        "when the server's weights change under the same name.",
    )
    temperature: float | None = Field(
        None, ge=0, le=2, description="openai: sampling temperature; the server's if absent."
    )
    top_p: float | None = Field(None, gt=0, le=1, description="openai: nucleus sampling; the server's if absent.")
    seed: int | None = Field(None, description="openai: sent with the sample's index added, so that samples differ.")
    samples: int = Field(1, ge=1, le=64, description="Answers asked for each prompt of a hosted teacher.")
    select: SelectSpec = Field(
        "all", description="Which of a prompt's samples the students learn: `all`, `first_valid`, or `best: …`."
    )
    labels: list[Label] | None = Field(
        None, min_length=2, description="Classification: an answer must be one of these, else it is `invalid_label`."
    )
    json_schema: JsonSchema | None = Field(
        None,
        description="Structured output: a JSON Schema, inline or the name of a file beside the YAML; hosted teachers "
        "are held to it, and every answer is validated, else it is `invalid_json`.",
    )
    prompt_cache: bool = Field(
        True, description="anthropic: mark a long system prompt and long few-shot examples for the provider's cache."
    )
    transport: Literal["messages", "batches", "auto"] = Field(
        "messages",
        description="anthropic: one request per prompt, provider batches at half price, or whichever fits the number "
        "of missing answers.",
    )
    concurrency: int = Field(32, ge=1, le=1024, description="Most requests in flight at a hosted teacher.")
    requests_per_minute: int | None = Field(
        None, ge=1, description="Most requests a minute; the provider's own if absent."
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Most tokens a minute, input and output together; the provider's own if absent."
    )
    batch_size: int = Field(
        32, ge=1, description="Most prompts per forward pass of a local teacher; no part of its identity."
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Most tokens (prompt and longest answer, all rows) a local teacher holds at once; no part of its "
        "identity. Absent: `batch_size` alone decides.",
    )
    budget_usd: Annotated[Decimal, Field(gt=0)] | None = Field(
        None, description="Hard stop for this distillation: its hosted teacher and judges together."
    )
    prices: PriceSpec | None = Field(None, description="Instead of the price table.")
    authorization: str | None = Field(
        None, description="How the provider permits this use; recorded in lineage and the model card."
    )
    base_url: str | None = Field(None, description="Another endpoint, e.g. a gateway, or the server for `openai`.")
    thresholds: ThresholdsSpec = Field(
        ThresholdsSpec(), description="Largest shares of bad endings before the `answers_usable` check complains."
    )
    variants: dict[VariantName, VariantSpec] = Field(
        {}, description="Other prompt designs, for `distill variants`; none of them reaches the dataset."
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_are_texts(cls, labels: object) -> object:
        if isinstance(labels, list) and any(isinstance(label, bool) for label in labels):
            raise ValueError("YAML reads yes, no, on and off as true and false; write such labels in quotes")
        return labels

    @model_validator(mode="after")
    def _fits_provider(self) -> Self:
        strangers = {
            name: sorted(providers)
            for name, providers in ONLY_FOR.items()
            if name in self.model_fields_set and self.provider not in providers and getattr(self, name) is not None
        }
        if strangers:
            told = "; ".join(f"{name}: only for provider {' or '.join(known)}" for name, known in strangers.items())
            raise ValueError(f"{told} (provider is {self.provider})")
        if self.provider == "openai" and self.base_url is None:
            raise ValueError("base_url: needed for provider openai, e.g. http://localhost:8000/v1")
        return self

    @model_validator(mode="after")
    def _answers_agree(self) -> Self:
        if self.labels is not None and self.json_schema is not None:
            raise ValueError("labels and json_schema: write one of them; a schema with an `enum` holds labels too")
        if self.labels is not None and len({label.casefold() for label in self.labels}) < len(self.labels):
            raise ValueError(
                "labels: two of them differ in upper and lower case only, or are equal; answers could not tell"
            )
        if self.select != "all" and self.samples == 1:
            raise ValueError("select: chooses among several samples; write `samples: 4`, say, or leave it out")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                "samples: at temperature 0 all samples are one; raise the temperature or leave samples out"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether the teacher runs in the worker, on this machine."""
        return self.provider in LOCAL_PROVIDERS
