"""What a comparison of prompt designs says: its report.json, which the page and the terminal only show."""

from typing import Any, Literal

from distill_dagster.evaluation.model import ReportModel
from distill_dagster.evaluation.statistics import Estimate
from distill_dagster.variants.make import DECLARED

REPORT_FORMAT = 1
MeasureUnit = Literal["score", "share", "words", "tokens", "usd"]


class DesignFacts(ReportModel):
    """One design and what became of its rows.

    Attributes:
        changes: the keys in which it differs from the declared design.
        identity: digest of model and output-affecting parameters.
        statuses: rows by ending, `answered` and so on.
        problems: rows by what is wrong with an answer that ended well, e.g. `invalid_label`.
        unrendered: rows that are no prompt in this design.
        median_words, median_output_tokens: None where no row has an answer.
    """

    name: str
    provider: str
    model: str
    changes: dict[str, Any]
    identity: str
    rows: int
    statuses: dict[str, int]
    problems: dict[str, int]
    unrendered: int
    median_words: float | None
    median_output_tokens: float | None


class DesignMeasure(ReportModel):
    """What is measured, each design's estimate, and each variant's paired difference to the declared design.

    Attributes:
        unit: `usd` is dollars per 1,000 requests.
        differences: variant - declared, over the rows where both are known; by the variant's name.
    """

    name: str
    label: str
    description: str
    unit: MeasureUnit
    higher_is_better: bool | None
    designs: dict[str, Estimate]
    differences: dict[str, Estimate]

    def verdict(self, variant: str) -> bool | None:
        """Whether the variant is better; None where the interval spans zero, or neither direction is better."""
        difference = self.differences.get(variant)
        if self.higher_is_better is None or difference is None or difference.low is None or difference.high is None:
            return None
        if difference.low > 0:
            return self.higher_is_better
        return not self.higher_is_better if difference.high < 0 else None


class Agreement(ReportModel):
    """How alike two designs' answers are: mean chrF over rows, of both directions."""

    left: str
    right: str
    similarity: Estimate


class VariantsReport(ReportModel):
    """One comparison; a function of the compared rows and the declaration, without timings or dates.

    Attributes:
        rows, groups: what was compared; `available` rows are in the validation split.
        primary_metric: the first text metric, or that of the gate.
        declared: the declared design's values of the keys that any variant changes.
        examples: prompt ids of the rows with the largest disagreement, largest first.
    """

    format: int = REPORT_FORMAT
    distillation: str
    headlines: list[str]
    rows: int
    groups: int
    available: int
    rows_with_reference: int
    primary_metric: str
    declared: dict[str, Any]
    designs: list[DesignFacts]
    measures: list[DesignMeasure]
    agreement: list[Agreement]
    examples: list[str]
    prompts: dict[str, str]
    confidence: float
    seed: int

    @property
    def variants(self) -> list[str]:
        """Names of the designs that were compared with the declared one."""
        return [design.name for design in self.designs if design.name != DECLARED]

    def measure(self, name: str) -> DesignMeasure | None:
        """A measure by name, or None where it was not taken."""
        return next((measure for measure in self.measures if measure.name == name), None)
