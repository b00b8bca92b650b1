"""The `automation:` block: what happens by itself while the Dagster daemon runs."""

from typing import Literal

from pydantic import Field

from distill_dagster.spec.base import SpecModel
from distill_dagster.spec.money import Dollars


class AutomationSpec(SpecModel):
    """Watching the source of prompts, and retraining on what changed in it."""

    sensor: bool = Field(True, description="Watch the source: register its partitions, and make changed prompts.")
    interval_seconds: int = Field(60, ge=5, description="Shortest time between two looks of a sensor.")
    watch: list[str] = Field(
        [], description="Globs of further files that the source reads, such as those of a Python function or a query."
    )
    watermark: str | None = Field(
        None,
        description="sql: a cheap DuckDB query of one row that changes with the source, e.g. "
        "`select max(updated_at), count(*) from 'tickets.parquet'`.",
    )
    retrain: Literal["never", "on_change"] = Field(
        "never", description="Ask the teacher and train again when prompts or golden rows have changed in content."
    )
    debounce_minutes: float = Field(
        30, ge=0, description="How long content has to stay as it is before the teacher is asked."
    )
    budget_usd_per_day: Dollars | None = Field(
        None, description="A hosted teacher: most dollars that automatic runs may spend in 24 hours, by estimate."
    )
