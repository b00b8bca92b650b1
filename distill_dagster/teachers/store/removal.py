"""The one way a response leaves the store: `distill forget`. What was paid for it stays counted."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import polars as pl
from sqlalchemy import Connection, Engine, delete, select

from distill_dagster.teachers.protocol import request_keys
from distill_dagster.teachers.store.budget import Budget
from distill_dagster.teachers.store.database import reading, writing
from distill_dagster.teachers.store.schema import responses, spending

CHUNK = 5_000
MOST_SAMPLES = 64


def identities(engine: Engine) -> list[str]:
    """The digests of all teachers, asked one way or another, that have a stored answer."""
    with reading(engine) as connection:
        return sorted(connection.execute(select(responses.c.identity).distinct()).scalars())


def stored_keys_of(engine: Engine, messages: Iterable[str]) -> list[str]:
    """The request keys of all stored answers to some conversations, whoever gave them and to whatever sample.

    Args:
        messages: conversations as canonical JSON.
    """
    rows = pl.DataFrame({"messages": sorted(set(messages))}, schema={"messages": pl.String})
    samples = pl.DataFrame({"sample": range(MOST_SAMPLES)}, schema={"sample": pl.Int32})
    asked = rows.join(samples, how="cross")
    known = identities(engine)
    wanted = [key for digest in known for key in request_keys(digest, asked)]
    with reading(engine) as connection:
        found: list[str] = []
        for chunk in _chunks(wanted):
            stored = select(responses.c.request_key).where(responses.c.request_key.in_(chunk))
            found.extend(connection.execute(stored).scalars())
    return sorted(found)


def remove_responses(engine: Engine, keys: Sequence[str]) -> int:
    """Removes answers in one transaction, and their bytes from the database's file; returns how many there were.

    What a killed process had not settled yet is settled first, so that accounts stay what they are.
    """
    is_sqlite = engine.dialect.name == "sqlite"
    removed = 0
    with writing(engine) as connection:
        if is_sqlite:
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
        for account in _unsettled(connection, keys):
            Budget(account, None).settle_stored_in(connection)
        for chunk in _chunks(keys):
            removed += connection.execute(delete(responses).where(responses.c.request_key.in_(chunk))).rowcount
    if is_sqlite:
        with closing(engine.raw_connection()) as raw:  # outside of any transaction
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return removed


def _unsettled(connection: Connection, keys: Sequence[str]) -> list[str]:
    """The accounts with an open reservation of one of the requests."""
    found: set[str] = set()
    for chunk in _chunks(keys):
        open_ = select(spending.c.distillation).where(
            spending.c.request_key.in_(chunk), spending.c.actual_microusd.is_(None)
        )
        found.update(connection.execute(open_.distinct()).scalars())
    return sorted(found)


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), CHUNK):
        yield keys[start : start + CHUNK]
