"""What a thousand answers of each system take: seconds on this machine, and dollars where a price is declared."""

from collections.abc import Mapping
from decimal import Decimal

from distill_dagster.evaluation.model import System

ANSWERS = 1000
SECONDS, USD = "seconds_per_1000_answers", "usd_per_1000_answers"
_SECONDS_PER_HOUR = 3600


def answer_costs(
    timings: Mapping[str, Mapping[str, float]], teacher_usd: float | None, usd_per_hour: Decimal | None
) -> dict[str, dict[str, float]]:
    """Costs by system; a hosted teacher has what it charged and no seconds, a model on this machine its time.

    Args:
        timings: `answers` and `seconds` of the models that answered here.
        teacher_usd: what a hosted teacher charged for 1,000 answers, from its usage.
        usd_per_hour: what this machine costs; None leaves its models without dollars.
    """
    costs: dict[str, dict[str, float]] = {}
    for system, timing in timings.items():
        if not timing.get("answers") or "seconds" not in timing:
            continue
        seconds = timing["seconds"] / timing["answers"] * ANSWERS
        costs[system] = {SECONDS: seconds}
        if usd_per_hour is not None:
            costs[system][USD] = seconds / _SECONDS_PER_HOUR * float(usd_per_hour)
    if teacher_usd is not None:
        costs[System.TEACHER.value] = {USD: teacher_usd}
    return costs
