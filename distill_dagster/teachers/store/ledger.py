"""The batch ledger: every provider batch as a state machine in the response store's database.

`intended` (written before anything is sent) → `created` (the provider's id is known) → `ended` → `ingested`; or
`intended` → `abandoned`, once it is certain that the provider never made it. A request stands in one open batch only.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, select, update

from distill_dagster.teachers.store.budget import Budget
from distill_dagster.teachers.store.database import insert_new, reading, serialise, writing
from distill_dagster.teachers.store.schema import batch_requests, batches

CHUNK = 5_000


class BatchState(StrEnum):
    """Where a batch stands."""

    INTENDED = "intended"
    CREATED = "created"
    ENDED = "ended"
    INGESTED = "ingested"
    ABANDONED = "abandoned"


OPEN = (BatchState.INTENDED, BatchState.CREATED, BatchState.ENDED)


@dataclass(frozen=True)
class Batch:
    """One batch of the ledger; times in milliseconds since the epoch.

    Attributes:
        requests: how many it was sent with.
        provider_id: the provider's name for it, once known.
        adopted: found again in the provider's list after the answer to its creation was lost, so its results have to
            prove that it is the one.
        not_ours: batches of the provider that looked like it and were proven to be another's.
        sent_at: just before it was sent; None where it was certainly not.
        counts: how its requests ended, once they have.
    """

    id: str
    distillation: str
    identity: str
    state: BatchState
    requests: int
    provider_id: str | None
    adopted: bool
    not_ours: tuple[str, ...]
    intended_at: int
    sent_at: int | None
    ended_at: int | None
    counts: Mapping[str, int]


class Ledger:
    """Reads and moves batches; each move is one transaction and holds only from the state it expects."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(
        self, *, distillation: str | None = None, identity: str | None = None, is_open: bool = True
    ) -> list[Batch]:
        """Batches, oldest first.

        Args:
            distillation: only those that it sent.
            identity: only those of this teacher.
            is_open: only those that are neither ingested nor abandoned.
        """
        wanted = select(batches).order_by(batches.c.intended_at, batches.c.id)
        if distillation is not None:
            wanted = wanted.where(batches.c.distillation == distillation)
        if identity is not None:
            wanted = wanted.where(batches.c.identity == identity)
        if is_open:
            wanted = wanted.where(batches.c.state.in_([state.value for state in OPEN]))
        with reading(self._engine) as connection:
            return [_batch(row) for row in connection.execute(wanted).mappings()]

    def known_ids(self) -> set[str]:
        """The provider's names of all batches that were ever created."""
        with reading(self._engine) as connection:
            named = select(batches.c.provider_id).where(batches.c.provider_id.is_not(None))
            return {str(name) for name in connection.execute(named).scalars()}

    def keys(self, batch: Batch) -> set[str]:
        """The request keys that an open batch carries."""
        with reading(self._engine) as connection:
            carried = select(batch_requests.c.request_key).where(batch_requests.c.batch == batch.id)
            return set(connection.execute(carried).scalars())

    def intend_in(
        self, connection: Connection, distillation: str, identity: str, keys: Sequence[str], run: str | None
    ) -> Batch:
        """Writes down what is going to be sent, inside the transaction that reserved its cost."""
        row = {
            "id": uuid.uuid4().hex,
            "distillation": distillation,
            "identity": identity,
            "state": BatchState.INTENDED.value,
            "requests": len(keys),
            "provider_id": None,
            "adopted": False,
            "not_ours": "[]",
            "intended_at": now_ms(),
            "sent_at": None,
            "created_at": None,
            "ended_at": None,
            "ingested_at": None,
            "counts": None,
            "run": run,
        }
        insert_new(connection, batches, [row])
        insert_new(connection, batch_requests, [{"request_key": key, "batch": row["id"]} for key in keys])
        return _batch(row)

    def sending(self, batch: Batch) -> None:
        """It is sent next: from here on it may exist."""
        self._move(batch, BatchState.INTENDED, {"sent_at": now_ms()})

    def created(self, batch: Batch, provider_id: str, created_at: int, *, adopted: bool = False) -> None:
        """The provider made it."""
        self._move(
            batch,
            BatchState.INTENDED,
            {
                "state": BatchState.CREATED.value,
                "provider_id": provider_id,
                "created_at": created_at,
                "adopted": adopted,
            },
        )

    def disowned(self, batch: Batch) -> None:
        """What was adopted for it is another's batch; it has to be looked for again."""
        excluded = json.dumps([*batch.not_ours, batch.provider_id])
        change = {"state": BatchState.INTENDED.value, "provider_id": None, "adopted": False, "not_ours": excluded}
        self._move(batch, batch.state, change)

    def ended(self, batch: Batch, ended_at: int, counts: Mapping[str, int]) -> None:
        """The provider is done with it, and says how its requests ended."""
        change = {"state": BatchState.ENDED.value, "ended_at": ended_at, "counts": json.dumps(dict(counts))}
        self._move(batch, BatchState.CREATED, change)

    def abandon(self, batch: Batch, budget: Budget) -> None:
        """The provider never made it: its requests are free again and cost nothing."""
        with writing(self._engine) as connection:
            if self._moved(connection, batch, BatchState.INTENDED, {"state": BatchState.ABANDONED.value}):
                keys = select(batch_requests.c.request_key).where(batch_requests.c.batch == batch.id)
                budget.cancel_in(connection, list(connection.execute(keys).scalars()))
                self._free(connection, batch)

    def give_up(self, batch: Batch) -> None:
        """Its results will never be had: its requests are free again, and count as paid, since they perhaps were."""
        with writing(self._engine) as connection:
            if self._moved(connection, batch, batch.state, {"state": BatchState.ABANDONED.value}):
                self._free(connection, batch)

    def ingest_in(self, connection: Connection, batch: Batch) -> bool:
        """Marks a batch ingested inside the transaction that stores its answers; False where that was done already."""
        serialise(connection, f"batch/{batch.id}")
        change = {"state": BatchState.INGESTED.value, "ingested_at": now_ms()}
        if not self._moved(connection, batch, BatchState.ENDED, change):
            return False
        self._free(connection, batch)
        return True

    def _move(self, batch: Batch, expected: BatchState, change: Mapping[str, object]) -> None:
        with writing(self._engine) as connection:
            self._moved(connection, batch, expected, change)

    def _moved(self, connection: Connection, batch: Batch, expected: BatchState, change: Mapping[str, object]) -> bool:
        moved = update(batches).where(batches.c.id == batch.id, batches.c.state == expected.value).values(**change)
        return bool(connection.execute(moved).rowcount)

    def _free(self, connection: Connection, batch: Batch) -> None:
        connection.execute(delete(batch_requests).where(batch_requests.c.batch == batch.id))


def open_batch_count(engine: Engine, distillation: str) -> int:
    """How many batches of a distillation are under way."""
    with reading(engine) as connection:
        under_way = select(func.count()).where(
            batches.c.distillation == distillation, batches.c.state.in_([state.value for state in OPEN])
        )
        return int(connection.execute(under_way.select_from(batches)).scalar_one())


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)


def _batch(row: Mapping[Any, Any]) -> Batch:
    return Batch(
        id=row["id"],
        distillation=row["distillation"],
        identity=row["identity"],
        state=BatchState(row["state"]),
        requests=row["requests"],
        provider_id=row["provider_id"],
        adopted=row["adopted"],
        not_ours=tuple(json.loads(row["not_ours"])),
        intended_at=row["intended_at"],
        sent_at=row["sent_at"],
        ended_at=row["ended_at"],
        counts=json.loads(row["counts"]) if row["counts"] else {},
    )
