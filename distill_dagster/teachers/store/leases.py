"""Who works on what: expiring claims in the database, on request keys and on build keys.

A claim ends when it is released, when it expires unrenewed, or, on the same machine, when its process is gone.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, delete, select, update

from distill_dagster.process import has_ended, process_identity
from distill_dagster.teachers.store.database import insert_new, serialise, writing
from distill_dagster.teachers.store.schema import leases

TTL_S = 60.0
POLL_S = 0.5
CHUNK = 5_000


class Leases:
    """The claims of this process (one owner an instance)."""

    def __init__(self, engine: Engine, ttl_s: float = TTL_S) -> None:
        self._engine = engine
        self._ttl_s = ttl_s
        self.owner = f"{process_identity()}#{uuid.uuid4().hex[:8]}"

    def acquire(self, names: Sequence[str]) -> set[str]:
        """Claims what is free of `names`; returns what is newly claimed."""
        with writing(self._engine) as connection:
            return self.acquire_in(connection, names)

    def acquire_in(self, connection: Connection, names: Sequence[str]) -> set[str]:
        """`acquire` inside a transaction of the caller's."""
        serialise(connection, "leases")
        claimed: set[str] = set()
        for chunk in _chunks(names):
            taken = self._taken(connection, chunk)
            free = [name for name in dict.fromkeys(chunk) if name not in taken]
            expires = _now_ms() + int(self._ttl_s * 1000)
            insert_new(
                connection, leases, [{"name": name, "owner": self.owner, "expires_at": expires} for name in free]
            )
            claimed.update(free)
        return claimed

    def release_in(self, connection: Connection, names: Iterable[str]) -> None:
        """Gives claims back inside a transaction of the caller's."""
        for chunk in _chunks(list(names)):
            connection.execute(delete(leases).where(leases.c.name.in_(chunk), leases.c.owner == self.owner))

    def release_all(self) -> None:
        """Gives everything back."""
        with writing(self._engine) as connection:
            connection.execute(delete(leases).where(leases.c.owner == self.owner))

    def renew(self) -> None:
        """Prolongs everything this owner holds."""
        with writing(self._engine) as connection:
            expires = _now_ms() + int(self._ttl_s * 1000)
            connection.execute(update(leases).where(leases.c.owner == self.owner).values(expires_at=expires))

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Renews in the background for the duration of the block, and gives everything back at its end."""
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop,), name="lease renewal", daemon=True)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            self.release_all()

    @contextmanager
    def hold(self, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Waits for the one claim on `name`, renews it during the block, gives it back.

        Args:
            name: what is claimed, e.g. `build/<build key>`.
            waiting: called once when another process holds it.
        """
        told = False
        while name not in self.acquire([name]):
            if waiting and not told:
                waiting()
                told = True
            time.sleep(POLL_S)
        with self.alive():
            yield

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(self._ttl_s / 3):
            self.renew()

    def _taken(self, connection: Connection, names: Sequence[str]) -> set[str]:
        """Which names are claimed by anyone, once expired claims and those of dead processes are gone."""
        claims = select(leases.c.name, leases.c.owner, leases.c.expires_at).where(leases.c.name.in_(names))
        now = _now_ms()
        taken, gone = set(), []
        for name, owner, expires in connection.execute(claims):
            if owner != self.owner and (expires < now or has_ended(owner.partition("#")[0])):
                gone.append(name)
            else:
                taken.add(name)
        for chunk in _chunks(gone):
            connection.execute(delete(leases).where(leases.c.name.in_(chunk)))
        return taken


def _now_ms() -> int:
    return int(time.time() * 1000)


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]
