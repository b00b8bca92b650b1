"""What tokens cost, in micro-dollars: from the dated table, the project's `prices.yaml` or the declaration."""

from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distill_dagster.errors import TeacherError
from distill_dagster.spec.money import PriceSpec
from distill_dagster.spec.teacher import TeacherSpec

PROJECT_TABLE = "prices.yaml"
# A dollar per million tokens is 10⁶ pico-dollars a token: whole numbers down to a millionth of that price.
PICO = 1_000_000
DEFAULT = PriceSpec(input=Decimal(0), output=Decimal(0))


@dataclass(frozen=True)
class Band:
    """Dollars per million tokens for prompts longer than `above_input_tokens`."""

    above_input_tokens: int
    input: Decimal
    output: Decimal


@dataclass(frozen=True)
class Price:
    """The bands of one model, shortest prompts first, and what batches and the prompt cache do to them.

    Attributes:
        batch: factor on everything for a batched request.
        cache_write: price of a token written to the prompt cache, in input tokens.
        cache_read: price of a token read from it, in input tokens.
    """

    bands: tuple[Band, ...]
    batch: Decimal = DEFAULT.batch
    cache_write: Decimal = DEFAULT.cache_write
    cache_read: Decimal = DEFAULT.cache_read

    def microusd(
        self,
        input_tokens: int,
        output_tokens: int,
        *,
        cache_write_tokens: int = 0,
        cache_read_tokens: int = 0,
        batched: bool = False,
    ) -> int:
        """Cost in micro-dollars, rounded up.

        Args:
            input_tokens: all of the prompt, cached tokens included; it decides the band.
            output_tokens: all of the answer, thinking included.
            cache_write_tokens: of the input, those written to the prompt cache.
            cache_read_tokens: of the input, those read from it.
            batched: whether the request went through a provider batch.
        """
        band = self._band(input_tokens)
        plain = input_tokens - cache_write_tokens - cache_read_tokens
        read = plain + self.cache_write * cache_write_tokens + self.cache_read * cache_read_tokens
        return self._rounded_up(band.input * read + band.output * output_tokens, batched)

    def most_microusd(self, input_tokens: int, output_tokens: int, *, cached: bool, batched: bool) -> int:
        """The highest cost of any band that a prompt of at most `input_tokens` can fall into.

        Args:
            cached: whether all of the prompt might be written to the prompt cache.
            batched: whether it goes through a provider batch.
        """
        factor = max(Decimal(1), self.cache_write) if cached else Decimal(1)
        return max(
            self._rounded_up(band.input * factor * input_tokens + band.output * output_tokens, batched)
            for band in self.bands
            if band.above_input_tokens < max(input_tokens, 1)
        )

    def _band(self, input_tokens: int) -> Band:
        return next(band for band in reversed(self.bands) if band.above_input_tokens < max(input_tokens, 1))

    def _rounded_up(self, dollars_per_million: Decimal, batched: bool) -> int:
        pico = int(dollars_per_million * (self.batch if batched else 1) * PICO)
        return -(-pico // PICO)


def price_of(teacher: TeacherSpec, project_root: Path) -> Price:
    """The price of a hosted teacher: its `prices`, else the project's `prices.yaml`, else the shipped table.

    Raises:
        TeacherError: none of them knows the model, or the project's file is wrong.
    """
    if teacher.prices is not None:
        return _price(teacher.prices, teacher.provider)
    path = project_root / PROJECT_TABLE
    own = _own_table(path) if path.is_file() else {}
    table = _shipped_table()
    found = own.get(teacher.provider, {}).get(teacher.model) or table.get(teacher.provider, {}).get(teacher.model)
    if found is None:
        known = sorted({*table.get(teacher.provider, {}), *own.get(teacher.provider, {})})
        raise TeacherError(
            f"no price for {teacher.provider} model {teacher.model!r} in the table of {table['as_of']}; write "
            "`prices: {input: …, output: …}` beside its `model:`, in dollars per million tokens "
            "(both 0 for a server of your own), "
            f"or put the model into {PROJECT_TABLE} (known: {', '.join(known) or 'none'})"
        )
    return _price(_checked(found, f"{teacher.provider}.{teacher.model}"), teacher.provider)


def table_date() -> str:
    """The day up to which the shipped table was checked."""
    return str(_shipped_table()["as_of"])


def _price(spec: PriceSpec, provider: str) -> Price:
    if spec.bands is None:
        assert spec.input is not None
        assert spec.output is not None
        bands: tuple[Band, ...] = (Band(0, spec.input, spec.output),)
    else:
        bands = tuple(Band(band.above_input_tokens, band.input, band.output) for band in spec.bands)
    cache_read = spec.cache_read
    if provider == "openai" and "cache_read" not in spec.model_fields_set:
        cache_read = Decimal(1)  # servers cache without being asked, and few of them charge less for it
    return Price(bands, spec.batch, spec.cache_write, cache_read)


def _checked(entry: Any, where: str) -> PriceSpec:
    try:
        return PriceSpec.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (where, *first["loc"])))
        raise TeacherError(f"{PROJECT_TABLE}: {place}: {first['msg']}; write e.g. {{input: 1, output: 5}}") from None


def _own_table(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise TeacherError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict) or not all(isinstance(models, dict) for models in content.values()):
        raise TeacherError(f"{path}: write `<provider>: {{<model>: {{input: …, output: …}}}}`")
    return content


@cache
def _shipped_table() -> dict[str, Any]:
    text = files("distill_dagster.teachers.money").joinpath("prices.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content
