"""What tokens cost, where the declaration or the project's `prices.yaml` says so."""

from decimal import Decimal
from typing import Annotated, Self

from pydantic import Field, model_validator

from distill_dagster.spec.base import SpecModel

Dollars = Annotated[Decimal, Field(ge=0)]
Factor = Annotated[Decimal, Field(ge=0)]


class BandSpec(SpecModel):
    """Dollars per million tokens for prompts longer than `above_input_tokens`."""

    above_input_tokens: int = Field(0, ge=0)
    input: Dollars
    output: Dollars


class PriceSpec(SpecModel):
    """Dollars per million tokens: `input` and `output`, or `bands` by the prompt's length."""

    input: Dollars | None = None
    output: Dollars | None = None
    bands: list[BandSpec] | None = Field(None, min_length=1, description="The first one starts at 0 tokens.")
    batch: Factor = Field(Decimal("0.5"), description="Price of a batched request, as a share of the full price.")
    cache_write: Factor = Field(
        Decimal("1.25"), description="Price of a token written to the prompt cache, in input tokens."
    )
    cache_read: Factor = Field(
        Decimal("0.1"),
        description="Price of a token read from the prompt cache, in input tokens; for `openai` 1 unless written.",
    )

    @model_validator(mode="after")
    def _flat_or_bands(self) -> Self:
        flat = self.input is not None and self.output is not None
        if flat == (self.bands is not None) or (self.bands is not None and (self.input or self.output) is not None):
            raise ValueError("write both `input` and `output`, or `bands`")
        if self.bands is not None:
            starts = [band.above_input_tokens for band in self.bands]
            if starts[0] != 0 or starts != sorted(set(starts)):
                raise ValueError("bands: begin with one at above_input_tokens 0 and go up")
        return self
