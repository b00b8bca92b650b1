"""What is read of a stored report.json, whichever release wrote it.

What an older release did not write has a default; what a newer one adds is ignored.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from distill_dagster.evaluation.model import Unit
from distill_dagster.evaluation.statistics import Estimate

TableName = Literal["quality", "fidelity", "health"]
TABLES: tuple[TableName, ...] = ("quality", "fidelity", "health")


class _Stored(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class StoredVersions(_Stored):
    """Content hashes of what was evaluated."""

    dataset: str
    student: str
    teacher: str | None = None


class StoredIdentity(_Stored):
    """What was evaluated, and how answers were made."""

    spec_hash: str
    versions: StoredVersions
    models: dict[str, str]
    decoding: dict[str, JsonValue]


class StoredCounts(_Stored):
    """Rows of the dataset by split, and those that were evaluated."""

    test_rows: int
    rows_per_split: dict[str, int]


class StoredTraining(_Stored):
    """How the student was declared and trained."""

    settings: dict[str, JsonValue] = {}
    rows_trained: int
    steps: int
    tokens_trained: int
    seed: int | None = None


class StoredMeasure(_Stored):
    """A row of a table."""

    name: str
    label: str
    description: str
    unit: Unit
    higher_is_better: bool | None
    systems: dict[str, Estimate]


class StoredGate(_Stored):
    """The acceptable loss as declared, and the verdict."""

    metric: str
    max_degradation: float
    status: str | None = None


class StoredReport(_Stored):
    """A report.json, as far as comparing needs it."""

    identity: StoredIdentity
    counts: StoredCounts
    primary_metric: str
    quality: list[StoredMeasure]
    fidelity: list[StoredMeasure]
    health: list[StoredMeasure]
    gate: StoredGate | None = None
    training: StoredTraining
    confidence: float

    def measures(self, table: TableName) -> Mapping[str, StoredMeasure]:
        """A table's rows by name."""
        rows: list[StoredMeasure] = getattr(self, table)
        return {row.name: row for row in rows}
