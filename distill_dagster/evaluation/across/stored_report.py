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


class StoredJudge(_Stored):
    """What a judge said of the student against one opponent."""

    opponent: str
    judge: str
    rubric: str


class StoredHarnessRow(_Stored):
    """One metric of one task of the harness."""

    task: str
    task_version: str | None
    shots: int
    metric: str
    filter: str
    higher_is_better: bool | None
    systems: dict[str, Estimate]


class StoredHarness(_Stored):
    """What the harness said."""

    harness: str
    limit: int | None
    chat_template: bool
    rows: list[StoredHarnessRow]


class StoredHeldOut(_Stored):
    """The measures on held-out partitions."""

    quality: list[StoredMeasure]
    fidelity: list[StoredMeasure]


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
    held_out: StoredHeldOut | None = None
    judge: list[StoredJudge] = []
    harness: StoredHarness | None = None
    gate: StoredGate | None = None
    training: StoredTraining
    confidence: float

    def measures(self, table: TableName) -> Mapping[str, StoredMeasure]:
        """A table's rows by name."""
        rows: list[StoredMeasure] = getattr(self, table)
        return {row.name: row for row in rows}

    def on_held_out(self) -> "StoredReport | None":
        """The same report with the tables of held-out partitions for its own; None where none are held out."""
        if self.held_out is None:
            return None
        tables = {"quality": self.held_out.quality, "fidelity": self.held_out.fidelity, "health": []}
        return self.model_copy(update=tables)
