"""What a distillation has spent and may still spend, counted in the database over all its runs and processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from distill_dagster.teachers.database import insert_new, serialise
from distill_dagster.teachers.schema import spending

MICRO = 1_000_000


@dataclass(frozen=True)
class Budget:
    """A distillation's account.

    Attributes:
        distillation: whose account.
        limit_microusd: the most it may spend; None for no limit.
    """

    distillation: str
    limit_microusd: int | None

    @classmethod
    def of(cls, distillation: str, limit_usd: Decimal | None) -> "Budget":
        """An account with a limit in dollars."""
        return cls(distillation, None if limit_usd is None else int(limit_usd * MICRO))

    def spent_in(self, connection: Connection) -> int:
        """Micro-dollars spent, open reservations included."""
        amount = func.coalesce(spending.c.actual_microusd, spending.c.reserved_microusd)
        total = select(func.coalesce(func.sum(amount), 0)).where(spending.c.distillation == self.distillation)
        return int(connection.execute(total).scalar_one())

    def reserve_in(self, connection: Connection, costs: Mapping[str, int]) -> list[str]:
        """Reserves the most each request can cost, in order, for as many as the limit allows.

        A reservation that an ended process left open on one of these requests was perhaps billed, so it
        counts as spent in full.

        Args:
            costs: micro-dollars by request key.

        Returns:
            The request keys that were reserved; the caller's transaction makes it binding.
        """
        serialise(connection, f"budget/{self.distillation}")
        self._close_abandoned(connection, list(costs))
        left = None if self.limit_microusd is None else self.limit_microusd - self.spent_in(connection)
        granted: list[str] = []
        for key, cost in costs.items():
            if left is not None:
                if cost > left:
                    break
                left -= cost
            granted.append(key)
        rows = [
            {"distillation": self.distillation, "request_key": key, "reserved_microusd": costs[key]}
            for key in granted
            if costs[key]
        ]
        insert_new(connection, spending, rows)
        return granted

    def settle_in(self, connection: Connection, actual: Mapping[str, int]) -> None:
        """Replaces reservations by what the answers did cost."""
        for key, cost in actual.items():
            connection.execute(update(spending).where(*self._open(key)).values(actual_microusd=cost))

    def cancel_in(self, connection: Connection, keys: Sequence[str]) -> None:
        """Drops reservations of requests that were not billed."""
        for key in keys:
            connection.execute(delete(spending).where(*self._open(key)))

    def _open(self, key: str) -> tuple[ColumnElement[bool], ...]:
        return (
            spending.c.distillation == self.distillation,
            spending.c.request_key == key,
            spending.c.actual_microusd.is_(None),
        )

    def _close_abandoned(self, connection: Connection, keys: list[str]) -> None:
        abandoned = (
            update(spending)
            .where(spending.c.request_key.in_(keys), spending.c.actual_microusd.is_(None))
            .values(actual_microusd=spending.c.reserved_microusd)
        )
        connection.execute(abandoned)
