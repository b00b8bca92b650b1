"""What a distillation has spent and may still spend, counted in the database over all its runs and processes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection, bindparam, delete, func, select, update

from distill_dagster.teachers.store.database import insert_new, serialise
from distill_dagster.teachers.store.schema import accounts, responses, spending

MICRO = 1_000_000
CHUNK = 5_000

_SETTLE = (
    update(spending)
    .where(
        spending.c.distillation == bindparam("account"),
        spending.c.request_key == bindparam("key"),
        spending.c.actual_microusd.is_(None),
    )
    .values(actual_microusd=bindparam("cost"))
)


@dataclass(frozen=True)
class Budget:
    """A distillation's account.

    Attributes:
        distillation: whose account.
        limit_microusd: the most it may spend; None for no limit.
        run: which run spends, e.g. a Dagster run id.
    """

    distillation: str
    limit_microusd: int | None
    run: str | None = None

    @classmethod
    def of(cls, distillation: str, limit_usd: Decimal | None, run: str | None = None) -> "Budget":
        """An account with a limit in dollars."""
        return cls(distillation, None if limit_usd is None else int(limit_usd * MICRO), run)

    def spent_in(self, connection: Connection) -> int:
        """Micro-dollars spent, open reservations included."""
        committed = select(accounts.c.committed_microusd).where(accounts.c.distillation == self.distillation)
        found = connection.execute(committed).scalar_one_or_none()
        return int(found) if found is not None else self._added_up(connection)

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
            {
                "distillation": self.distillation,
                "request_key": key,
                "reserved_microusd": costs[key],
                "run": self.run,
            }
            for key in granted
            if costs[key]
        ]
        self._commit(connection, sum(costs[key] for key in granted))  # first: it may have to add up what is there
        insert_new(connection, spending, rows)
        return granted

    def again_in(self, connection: Connection, key: str) -> bool:
        """Counts a request's open reservation as spent, since its answer got lost, and reserves as much once more.

        Returns:
            Whether the limit allows it; where not, the first reservation counts as spent all the same.
        """
        serialise(connection, f"budget/{self.distillation}")
        cost = self._open(connection, [key]).get(key)
        return cost is None or bool(self.reserve_in(connection, {key: cost}))

    def settle_in(self, connection: Connection, actual: Mapping[str, int]) -> None:
        """Replaces reservations by what the answers did cost (micro-dollars by request key)."""
        reserved = self._open(connection, list(actual))
        if not reserved:
            return
        self._commit(connection, sum(actual[key] - open_ for key, open_ in reserved.items()))
        connection.execute(
            _SETTLE, [{"account": self.distillation, "key": key, "cost": actual[key]} for key in reserved]
        )

    def settle_stored_in(self, connection: Connection) -> None:
        """Settles what a killed process had stored and not settled yet."""
        stored = (
            select(spending.c.request_key, responses.c.cost_microusd)
            .join(responses, responses.c.request_key == spending.c.request_key)
            .where(spending.c.distillation == self.distillation, spending.c.actual_microusd.is_(None))
        )
        self.settle_in(connection, dict(connection.execute(stored).tuples().all()))

    def cancel_in(self, connection: Connection, keys: Sequence[str]) -> None:
        """Drops reservations of requests that were not billed."""
        self._commit(connection, -sum(self._open(connection, keys).values()))
        for chunk in _chunks(keys):
            connection.execute(
                delete(spending).where(
                    spending.c.distillation == self.distillation,
                    spending.c.request_key.in_(chunk),
                    spending.c.actual_microusd.is_(None),
                )
            )

    def _open(self, connection: Connection, keys: Sequence[str]) -> dict[str, int]:
        """Open reservations, in micro-dollars by request key."""
        found: dict[str, int] = {}
        for chunk in _chunks(keys):
            rows = select(spending.c.request_key, spending.c.reserved_microusd).where(
                spending.c.distillation == self.distillation,
                spending.c.request_key.in_(chunk),
                spending.c.actual_microusd.is_(None),
            )
            found.update((key, reserved) for key, reserved in connection.execute(rows))
        return found

    def _commit(self, connection: Connection, difference_microusd: int) -> None:
        """Adds to the account, and opens it where an earlier release has only single entries."""
        if not difference_microusd:
            return
        moved = (
            update(accounts)
            .where(accounts.c.distillation == self.distillation)
            .values(committed_microusd=accounts.c.committed_microusd + difference_microusd)
        )
        if not connection.execute(moved).rowcount:
            total = self._added_up(connection) + difference_microusd
            insert_new(connection, accounts, [{"distillation": self.distillation, "committed_microusd": total}])

    def _added_up(self, connection: Connection) -> int:
        amount = func.coalesce(spending.c.actual_microusd, spending.c.reserved_microusd)
        total = select(func.coalesce(func.sum(amount), 0)).where(spending.c.distillation == self.distillation)
        return int(connection.execute(total).scalar_one())

    def _close_abandoned(self, connection: Connection, keys: Sequence[str]) -> None:
        """What an ended process left open, of any distillation: spent in full, as far as anyone knows."""
        for chunk in _chunks(keys):
            connection.execute(
                update(spending)
                .where(spending.c.request_key.in_(chunk), spending.c.actual_microusd.is_(None))
                .values(actual_microusd=spending.c.reserved_microusd)
            )


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), CHUNK):
        yield keys[start : start + CHUNK]
