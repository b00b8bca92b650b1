"""The report's table of harness tasks: every system's value with its interval, and the student's paired differences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from distill_dagster.evaluation.harness_files import HarnessOutcome
from distill_dagster.evaluation.statistics import Estimate, Method, mean_estimate, paired_difference
from distill_dagster.jobs import HarnessScore
from distill_dagster.spec.harness import HarnessSpec


class _TableModel(BaseModel):
    """Strict and frozen, like the report's other models."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class HarnessRow(_TableModel):
    """One metric of one task.

    Attributes:
        task_version: the task's own `metadata.version`.
        shots: examples before each row.
        filter: how the harness read answers; `none` is its own word for no filter.
        systems: value by system. Without an interval where the metric is no mean over rows.
        stderr: standard errors by system as the harness gives them; None where it gives none.
        differences: `subject` minus another system, by the other, on the rows that both have.
    """

    task: str
    task_version: str | None
    shots: int
    metric: str
    filter: str
    higher_is_better: bool | None
    subject: str
    systems: dict[str, Estimate]
    stderr: dict[str, float | None]
    differences: dict[str, Estimate]

    unit: Literal["score"] = "score"

    @property
    def label(self) -> str:
        """What the row is called."""
        return f"{self.task}: {self.metric}"

    @property
    def description(self) -> str:
        """What else has to be known to compare it with another report."""
        version = "no version" if self.task_version is None else f"version {self.task_version}"
        shown = "" if self.filter == "none" else f", filter {self.filter}"
        return f"{version}, {self.shots}-shot{shown}"

    def comparison(self, left: str, right: str) -> Estimate | None:
        """The paired difference left - right, or None where it was not made."""
        return self.differences.get(right) if left == self.subject else None


class HarnessTable(_TableModel):
    """What lm-evaluation-harness says of a report's models.

    Attributes:
        harness: its version.
        limit: rows of each task that were used at most.
        chat_template: whether rows were written in the models' chat format.
        systems: who was measured, in the order of the columns.
        subject: whose differences to the others are told.
    """

    harness: str
    limit: int | None
    chat_template: bool
    subject: str
    systems: list[str]
    rows: list[HarnessRow]
    confidence: float
    seed: int

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The comparisons that any row has."""
        others = [other for other in self.systems if any(other in row.differences for row in self.rows)]
        return [(self.subject, other) for other in others]


def harness_table(
    outcomes: Mapping[str, HarnessOutcome], spec: HarnessSpec, subject: str, confidence: float, seed: int
) -> HarnessTable:
    """The table of what several systems reached on the same tasks.

    Every row of a task is a cluster of its own. Metrics that are no mean over rows (a perplexity, a corpus F1) keep the
    harness's value, without an interval or a difference.

    Args:
        outcomes: by system, in the order of the columns.
        spec: how the tasks were run.
        subject: the system whose differences to the others are told.
    """
    scores = {
        system: {(score.task, score.metric, score.filter): score for score in outcome.result.scores}
        for system, outcome in outcomes.items()
    }
    keys = dict.fromkeys(key for of_system in scores.values() for key in of_system)
    interval = _Interval(confidence, seed)
    return HarnessTable(
        harness=" / ".join(dict.fromkeys(outcome.result.harness for outcome in outcomes.values())),
        limit=spec.limit,
        chat_template=spec.apply_chat_template,
        subject=subject,
        systems=list(outcomes),
        rows=[
            _row({system: found[key] for system, found in scores.items() if key in found}, outcomes, subject, interval)
            for key in keys
        ],
        confidence=confidence,
        seed=seed,
    )


@dataclass(frozen=True)
class _Interval:
    confidence: float
    seed: int

    def of_mean(self, score: HarnessScore, values: pl.DataFrame) -> Estimate:
        if not score.is_mean:
            return Estimate(score.value, None, None, score.n, score.n, Method.NO_ROW_SCORES, self.confidence)
        return mean_estimate(values["score"].to_numpy(), values["doc_id"].to_list(), self.confidence, self.seed)

    def of_difference(self, left: pl.DataFrame, right: pl.DataFrame) -> Estimate:
        both = left.join(right, on="doc_id", how="inner", maintain_order="left")
        a, b = both["score"].to_numpy(), both["score_right"].to_numpy()
        return paired_difference(a, b, both["doc_id"].to_list(), self.confidence, self.seed)


def _row(
    scores: Mapping[str, HarnessScore], outcomes: Mapping[str, HarnessOutcome], subject: str, interval: _Interval
) -> HarnessRow:
    """The row of one metric, from the scores of the systems that have it."""
    facts = next(iter(scores.values()))
    own = (pl.col("task") == facts.task) & (pl.col("metric") == facts.metric) & (pl.col("filter") == facts.filter)
    values = {system: outcomes[system].samples.filter(own).sort("doc_id") for system in scores}
    paired = [system for system, score in scores.items() if score.is_mean]
    return HarnessRow(
        task=facts.task,
        task_version=facts.task_version,
        shots=facts.shots,
        metric=facts.metric,
        filter=facts.filter,
        higher_is_better=facts.higher_is_better,
        subject=subject,
        systems={system: interval.of_mean(score, values[system]) for system, score in scores.items()},
        stderr={system: score.stderr for system, score in scores.items()},
        differences={
            other: interval.of_difference(values[subject], values[other])
            for other in paired
            if other != subject and subject in paired
        },
    )
