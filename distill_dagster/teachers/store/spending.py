"""What a distillation has spent, as the response store's accounts say: in all, by run, and what travels in batches."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, func, or_, select

from distill_dagster.project import Distillation
from distill_dagster.teachers.store.budget import Budget
from distill_dagster.teachers.store.database import open_database, reading
from distill_dagster.teachers.store.ledger import OPEN, Ledger, now_ms
from distill_dagster.teachers.store.schema import batches, spending

LAST_RUNS = 5


@dataclass(frozen=True)
class RunCost:
    """What one run's requests came to; what is not settled yet counts as reserved.

    Attributes:
        run: a Dagster run id; None for what was asked outside of Dagster.
    """

    run: str | None
    requests: int
    cost_microusd: int


@dataclass(frozen=True)
class OpenBatch:
    """A provider batch that is under way."""

    id: str
    provider_id: str | None
    state: str
    requests: int
    age_s: int


@dataclass(frozen=True)
class Spending:
    """A distillation's account.

    Attributes:
        spent_microusd: settled.
        reserved_microusd: reserved for requests that are under way, or whose process ended without a word.
        budget_microusd: `teacher.budget_usd`; None for no limit.
        runs: the last runs that spent anything, newest first.
    """

    spent_microusd: int
    reserved_microusd: int
    budget_microusd: int | None
    runs: Sequence[RunCost]
    batches: Sequence[OpenBatch]


@dataclass(frozen=True)
class Paid:
    """Answers that were paid for, and what they cost."""

    answers: int
    cost_microusd: int


def spending_of(distillation: Distillation) -> Spending:
    """The account of a hosted teacher's distillation."""
    engine = open_database(distillation.project.store_url)
    budget = Budget.of(distillation.name, distillation.spec.teacher.budget_usd)
    unsettled = select(func.coalesce(func.sum(spending.c.reserved_microusd), 0)).where(
        spending.c.distillation == distillation.name, spending.c.actual_microusd.is_(None)
    )
    with reading(engine) as connection:
        reserved = int(connection.execute(unsettled).scalar_one())
        committed = budget.spent_in(connection)
    return Spending(
        spent_microusd=committed - reserved,
        reserved_microusd=reserved,
        budget_microusd=budget.limit_microusd,
        runs=_run_costs(engine, distillation.name),
        batches=_open_batches(engine, distillation.name),
    )


def spent_by(distillation: Distillation, runs: Collection[str]) -> int:
    """Micro-dollars of some runs' requests; what is not settled yet counts as reserved."""
    cost = func.sum(func.coalesce(spending.c.actual_microusd, spending.c.reserved_microusd))
    theirs = select(func.coalesce(cost, 0)).where(
        spending.c.distillation == distillation.name, spending.c.run.in_(list(runs))
    )
    with reading(open_database(distillation.project.store_url)) as connection:
        return int(connection.execute(theirs).scalar_one())


class Meter:
    """Counts what is paid for while a run works: what it asks, and what it collects of batches that others sent."""

    def __init__(self, distillation: Distillation, run: str) -> None:
        self._name = distillation.name
        self._engine = open_database(distillation.project.store_url)
        sent = select(batches.c.run).where(
            batches.c.distillation == self._name, batches.c.state.in_([state.value for state in OPEN])
        )
        with reading(self._engine) as connection:
            self._runs = {run, *connection.execute(sent).scalars()}
        self._before = self._settled()

    def read(self) -> Paid:
        """What was paid since the start."""
        now = self._settled()
        return Paid(now.answers - self._before.answers, now.cost_microusd - self._before.cost_microusd)

    def _settled(self) -> Paid:
        named = [run for run in self._runs if run is not None]
        theirs = spending.c.run.in_(named)
        total = select(func.count(), func.coalesce(func.sum(spending.c.actual_microusd), 0)).where(
            spending.c.distillation == self._name,
            spending.c.actual_microusd.is_not(None),
            or_(theirs, spending.c.run.is_(None)) if None in self._runs else theirs,
        )
        with reading(self._engine) as connection:
            answers, cost = connection.execute(total).one()
        return Paid(int(answers), int(cost))


def _run_costs(engine: Engine, distillation: str) -> list[RunCost]:
    cost = func.sum(func.coalesce(spending.c.actual_microusd, spending.c.reserved_microusd))
    newest = (
        select(spending.c.run, func.count(), cost)
        .where(spending.c.distillation == distillation)
        .group_by(spending.c.run)
        .order_by(func.max(spending.c.id).desc())
        .limit(LAST_RUNS)
    )
    with reading(engine) as connection:
        return [RunCost(run, int(requests), int(cost)) for run, requests, cost in connection.execute(newest)]


def _open_batches(engine: Engine, distillation: str) -> list[OpenBatch]:
    now = now_ms()
    return [
        OpenBatch(
            id=batch.id,
            provider_id=batch.provider_id,
            state=batch.state.value,
            requests=batch.requests,
            age_s=max(0, now - (batch.sent_at or batch.intended_at)) // 1000,
        )
        for batch in Ledger(engine).find(distillation=distillation)
    ]
