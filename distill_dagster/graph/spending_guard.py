"""Withholds an automatic run that would cost more than the declaration lets automation spend."""

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal

import dagster as dg

from distill_dagster.graph.keys import DISTILLATION_TAG
from distill_dagster.project import Distillation
from distill_dagster.teachers.money.dollars import MICRO, dollars
from distill_dagster.teachers.money.estimate import estimate_stored
from distill_dagster.teachers.store.spending import spent_by

RETRAIN_TAG = "distill/retrain"
WINDOW = dt.timedelta(hours=24)


def why_too_dear(distillation: Distillation, instance: dg.DagsterInstance, partitions: Sequence[str]) -> str | None:
    """Why the teacher is not asked for the partitions' missing answers by itself; None where it may be.

    The limit is held against the expected cost of `distill estimate` plus what automatic runs of the last 24 hours
    have spent; `teacher.budget_usd` against the expected cost as well, since it would end the run half-way.

    Raises:
        DistillError: the teacher's price is not known.
    """
    found = estimate_stored(distillation, partitions)
    if found.cost is None or not found.requests.missing:
        return None
    missing = found.requests.missing
    answers = "1 answer is" if missing == 1 else f"{missing:,} answers are"
    asked = f"withheld: {answers} missing, about {dollars(found.cost.expected_microusd)}"
    way_out = f"raise it, or `distill run {distillation.name}`"
    if found.budget is not None and not found.budget.expected_fits:
        left = dollars(found.budget.left_microusd or 0)
        return f"{asked}, and teacher.budget_usd leaves {left}; {way_out}"
    limit = distillation.spec.automation.budget_usd_per_day
    if limit is None:
        return None
    spent = spent_by(distillation, _automatic_runs(distillation, instance))
    if Decimal(spent + found.cost.expected_microusd) <= limit * MICRO:
        return None
    return (
        f"{asked}, and automation.budget_usd_per_day is {dollars(limit * MICRO)}, "
        f"{dollars(spent)} of it spent in the last 24 hours; {way_out}"
    )


def _automatic_runs(distillation: Distillation, instance: dg.DagsterInstance) -> list[str]:
    """Ids of the runs of the last 24 hours that the sensor asked for."""
    since = dt.datetime.now(dt.UTC) - WINDOW
    recent = dg.RunsFilter(tags={DISTILLATION_TAG: distillation.name}, created_after=since)
    return [run.run_id for run in instance.get_runs(recent) if RETRAIN_TAG in run.tags]
