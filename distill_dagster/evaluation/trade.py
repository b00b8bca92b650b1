"""The trade that a student is made for: what each system costs, and how good its answers are."""

from collections.abc import Mapping
from dataclasses import dataclass

from distill_dagster.evaluation.cost import SECONDS, USD
from distill_dagster.evaluation.headlines import closest_measure
from distill_dagster.evaluation.model import EvaluationReport, Measure, System, answering
from distill_dagster.evaluation.statistics import Estimate


@dataclass(frozen=True)
class TradePoint:
    """One system: its cost of 1,000 answers, and how good they are."""

    system: str
    cost: float
    quality: Estimate


@dataclass(frozen=True)
class Trade:
    """What the plot shows.

    Attributes:
        label: the measure.
        against: what it is measured against.
        cost: which cost (SECONDS or USD).
        quality: of every system in the order of the tables; None where it was not measured.
        points: the systems that have both.
        teacher_cost: of a teacher that is not, for it has no closeness to itself.
    """

    label: str
    against: str
    cost: str
    quality: dict[str, Estimate | None]
    points: list[TradePoint]
    teacher_cost: float | None

    @property
    def note(self) -> str:
        """What stands beside the title."""
        measured = f"{self.label} {self.against}".strip()
        return f"{measured}, and {self.unit} per 1,000 answers"

    @property
    def unit(self) -> str:
        """What costs are counted in."""
        return "dollars" if self.cost == USD else "seconds"


def find_trade(report: EvaluationReport, costs: Mapping[str, Mapping[str, float]]) -> Trade | None:
    """The plot's points: in dollars where two systems have them, else in seconds; None where fewer than two have both.

    Quality is the main metric against the references, or where there are none closeness to the teacher. The teacher
    itself then stands there as `teacher_again`, with the closeness of its second answers, where it was asked again.

    Args:
        costs: by system, as `answer_costs` gives them.
    """
    measure, against = _quality(report)
    if measure is None:
        return None
    measured = measure.systems
    has_second = measured.get(System.TEACHER) is None and System.TEACHER_AGAIN in measured
    teacher = System.TEACHER_AGAIN if has_second else System.TEACHER
    quality = {str(system): measured.get(system) for system in (teacher, *answering(report.companions)[1:])}
    for cost in (USD, SECONDS):
        points = [
            TradePoint(system, costs[payer(system)][cost], estimate)
            for system, estimate in quality.items()
            if estimate is not None and estimate.value is not None and cost in costs.get(payer(system), {})
        ]
        if len(points) > 1:
            has_teacher = any(point.system == teacher for point in points)
            beside = None if has_teacher else costs.get(System.TEACHER, {}).get(cost)
            return Trade(measure.label, against, cost, quality, points, beside)
    return None


def payer(system: str) -> str:
    """The system that a cost is noted of: a second answer costs what the first did."""
    return System.TEACHER.value if system == System.TEACHER_AGAIN else system


def _quality(report: EvaluationReport) -> tuple[Measure | None, str]:
    measure = report.measure("quality", report.primary_metric)
    if measure is not None and any(estimate.n for estimate in measure.systems.values()):
        against = "against human references" if report.needs_reference(report.primary_metric) else ""
        return measure, against
    closeness = report.measure("fidelity", report.primary_metric)
    return closeness or closest_measure(report.fidelity, report.primary_metric), "against the teacher’s answers"
