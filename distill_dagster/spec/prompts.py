"""The `prompts:` block: where rows come from and how each becomes a prompt."""

from datetime import date, timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from distill_dagster.spec.base import SpecModel

Text = Annotated[str, StringConstraints(pattern=r"\S")]
SOURCE_KINDS = ("jsonl", "csv", "parquet", "sql", "python", "huggingface")


class SourceSpec(SpecModel):
    """One source of rows; exactly one of the kinds."""

    jsonl: str | None = Field(None, description="Glob of JSON-lines files, relative to the YAML file's folder.")
    csv: str | None = Field(None, description="Glob of CSV files with a header line.")
    parquet: str | None = Field(None, description="Glob of Parquet files.")
    sql: str | None = Field(None, description="A DuckDB query; relative paths in it start at the YAML file's folder.")
    python: str | None = Field(
        None,
        description="`module.function` beside the YAML file, returning an iterable of mappings, "
        "a Polars frame or an Arrow table.",
    )
    huggingface: str | None = Field(
        None, description="`owner/dataset[:split]` on the Hugging Face hub (extra `huggingface`)."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in SOURCE_KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            seen = " and ".join(given) if given else "none"
            raise ValueError(f"write exactly one of {', '.join(SOURCE_KINDS)} (seen: {seen})")
        return self

    @property
    def kind(self) -> str:
        """Which of `SOURCE_KINDS` is given."""
        return next(kind for kind in SOURCE_KINDS if getattr(self, kind) is not None)

    @property
    def value(self) -> str:
        """The glob, query, callable or data set name."""
        return str(getattr(self, self.kind))


PARTITION_WAYS = ("by", "shards", "daily", "weekly", "monthly")


class PartitionSpec(SpecModel):
    """How prompts are cut into partitions: one of `by`, `shards`, `daily`, `weekly`, `monthly`."""

    by: str | None = Field(None, description="A column; each of its values is a partition.")
    shards: int | None = Field(None, ge=1, le=4096, description="Number of shards by hash of the prompt id.")
    daily: str | None = Field(None, description="A date or timestamp column; each UTC day is a partition.")
    weekly: str | None = Field(None, description="A date column; each week is a partition, named by its Monday.")
    monthly: str | None = Field(None, description="A date column; each month is a partition, named by its first day.")
    start: date | None = Field(None, description="First day of daily, weekly or monthly partitions.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [way for way in PARTITION_WAYS if getattr(self, way) is not None]
        if len(given) != 1:
            ways = ", ".join(PARTITION_WAYS)
            raise ValueError(f"write exactly one of {ways} (seen: {' and '.join(given) or 'none'})")
        if (self.date_column is None) != (self.start is None):
            raise ValueError(
                "`start: <YYYY-MM-DD>` goes with `daily: <column>`, `weekly: <column>` or `monthly: <column>`"
            )
        if self.start is not None and self.first_day(self.start) != self.start:
            period = "week" if self.weekly is not None else "month"
            raise ValueError(
                f"start: {self.start} is not the first day of a {period}; write {self.first_day(self.start)}"
            )
        return self

    @property
    def date_column(self) -> str | None:
        """The column whose date decides, where one does."""
        return self.daily or self.weekly or self.monthly

    def first_day(self, day: date) -> date:
        """The first day of the partition that a day is in: itself, its Monday, or the first of its month."""
        if self.weekly is not None:
            return day - timedelta(days=day.weekday())
        return day.replace(day=1) if self.monthly is not None else day


class SplitSpec(SpecModel):
    """Shares of the groups held out, by hash of the group, so that adding prompts never moves an old one."""

    validation: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must stay below 1, or nothing is left to train on")
        return self


class ExampleSpec(SpecModel):
    """One few-shot example."""

    prompt: Text
    completion: Text


FewShot = str | list[ExampleSpec]


class PromptsSpec(SpecModel):
    """Rows, the template that turns a row into a prompt, identity, partitions and splits."""

    source: SourceSpec
    prompt: str | None = Field(None, description="Jinja2 template (sandboxed) over the row's columns.")
    messages: str | None = Field(
        None,
        description="Column with the whole conversation instead: a list of {role, content}, last role user.",
    )
    system: str | None = Field(None, description="System prompt; a Jinja2 template over the row's columns.")
    few_shot: FewShot | None = Field(
        None,
        description="Examples {prompt, completion} put before every prompt: a list, or the name of a JSON-lines file.",
    )
    reference: str | None = Field(None, description="Column with a human answer.")
    id: str | None = Field(
        None, description="Column that identifies a row. Default: a hash of the row's columns, whatever the template."
    )
    group: str | None = Field(
        None,
        description="Column whose rows never straddle splits. "
        "Default: the normalised values of the columns the prompt reads.",
    )
    partition: PartitionSpec | None = Field(None, description="Default: one partition named `all`.")
    split: SplitSpec = SplitSpec()
    on_bad_row: Literal["fail", "skip"] = Field(
        "fail", description="A row that cannot be a prompt fails its partition, or is skipped, counted and listed."
    )
    max_row_bytes: int = Field(1_048_576, ge=1, description="A larger row (as UTF-8 JSON) is a bad row.")

    @model_validator(mode="after")
    def _template_or_messages(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("write either `prompt: <template>` or `messages: <column>`")
        return self
