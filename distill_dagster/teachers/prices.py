"""What tokens cost, from the dated price table or the YAML; money is counted in whole micro-dollars."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from distill_dagster.errors import TeacherError
from distill_dagster.spec.teacher import TeacherSpec


@dataclass(frozen=True)
class Band:
    """Dollars per million tokens for prompts longer than `above_input_tokens`."""

    above_input_tokens: int
    input: Decimal
    output: Decimal


@dataclass(frozen=True)
class Price:
    """The bands of one model, shortest prompts first."""

    bands: tuple[Band, ...]

    def microusd(self, input_tokens: int, output_tokens: int) -> int:
        """Cost in micro-dollars, rounded up: dollars per million tokens are micro-dollars per token."""
        band = next(band for band in reversed(self.bands) if input_tokens >= band.above_input_tokens)
        cost = band.input * input_tokens + band.output * output_tokens
        return int(cost.to_integral_value(rounding=ROUND_CEILING))

    def most_microusd(self, input_tokens: int, output_tokens: int) -> int:
        """The highest cost of any band a prompt of at most `input_tokens` can fall into."""
        possible = [band for band in self.bands if input_tokens >= band.above_input_tokens]
        return max(
            Price((Band(0, band.input, band.output),)).microusd(input_tokens, output_tokens) for band in possible
        )


def price_of(teacher: TeacherSpec) -> Price:
    """The price of a hosted teacher.

    Raises:
        TeacherError: neither the table nor the YAML knows the model.
    """
    if teacher.prices is not None:
        return Price((Band(0, teacher.prices.input, teacher.prices.output),))
    table = _table()
    known = table.get(teacher.provider, {})
    if teacher.model not in known:
        raise TeacherError(
            f"no price for {teacher.provider} model {teacher.model!r} in the table of {table['as_of']}; "
            f"write `teacher.prices: {{input: …, output: …}}` in dollars per million tokens (known: {', '.join(known)})"
        )
    return Price(tuple(_band(row) for row in known[teacher.model]))


def _band(row: dict[str, Any]) -> Band:
    return Band(int(row.get("above_input_tokens", 0)), Decimal(str(row["input"])), Decimal(str(row["output"])))


@cache
def _table() -> dict[str, Any]:
    text = files("distill_dagster.teachers").joinpath("prices.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content
