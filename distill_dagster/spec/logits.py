"""The `logits:` block: what is kept of a teacher's next-token distributions, for students of objective `logit`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distill_dagster.spec.base import SpecModel

Temperature = Annotated[float, Field(gt=0)]


class LogitsSpec(SpecModel):
    """How the teacher's distributions are captured at its own completions."""

    method: Literal["topk", "sample"] = Field(
        "topk",
        description="topk: the k most likely tokens and the mass of all others; sample: tokens drawn at random, "
        "another draw for each epoch (for the forward KL only).",
    )
    k: int = Field(20, ge=1, le=1024, description="topk: tokens stored at each position.")
    tail_draws: int = Field(
        380,
        ge=0,
        le=50_000,
        description="topk: tokens drawn from all others at each position, so many for a probability of 1 (380: each "
        "stands for 0.26 %), so that the forward KL at temperature 1 sees the whole vocabulary; 0 draws none. Other "
        "divergences and temperatures do not use them; a server gives none.",
    )
    temperatures: list[Temperature] = Field(
        [1.0],
        min_length=1,
        description="topk: temperatures that students may train at without another capture. sample: the one to draw "
        "at.",
    )
    draws: int = Field(50, ge=1, le=65535, description="sample: tokens drawn at each position, with replacement.")
    draw_sets: int | None = Field(
        None, ge=1, description="sample: sets of draws, one an epoch; the most epochs of any `logit` student if absent."
    )
    validation_rows: int = Field(
        32,
        ge=0,
        description="Validation rows of a partition whose full distributions are kept (as the teacher's last hidden "
        "states), so that training can measure the full-vocabulary KL without the teacher.",
    )
    batch_tokens: int = Field(8192, ge=1, description="Most tokens the teacher reads at once; no part of identity.")
    tokenizer: str | None = Field(
        None,
        description="openai: folder or hub id of the served model's tokenizer; the server must be vLLM, which gives "
        "the log-probabilities of stored completions.",
    )

    @model_validator(mode="after")
    def _one_temperature_to_draw_at(self) -> Self:
        if self.method == "sample" and len(self.temperatures) > 1:
            raise ValueError("temperatures: tokens are drawn at one temperature; write one, or `method: topk`")
        return self
