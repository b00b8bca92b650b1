"""Opens the response store's database: SQLite in WAL mode by default, PostgreSQL by URL."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, Executable, Table, create_engine, event, inspect, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from distill_dagster.errors import StorageError
from distill_dagster.teachers.store.schema import metadata, responses

BUSY_TIMEOUT_MS = 60_000

_opening = threading.Lock()


def open_database(url: str) -> Engine:
    """An engine with the tables made, one for each URL and process.

    Raises:
        StorageError: the database cannot be reached.
    """
    with _opening:
        return _open(url)


@cache
def _open(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed)
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine)
    try:
        with writing(engine) as connection:
            metadata.create_all(connection)
            _add_missing(connection)
    except SQLAlchemyError as error:
        raise _unreachable(url, error) from error
    return engine


def open_to_read(url: str) -> Engine | None:
    """An engine that leaves the database and the files beside it as they are; None where there is no database yet.

    Raises:
        StorageError: the database cannot be reached.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        path = Path(parsed.database).absolute()
        if not path.exists():
            return None
        # Without a log beside it nobody has the file open, and SQLite need not make one to take part in.
        log = path.with_name(f"{path.name}-wal")
        still = "" if log.exists() else "&immutable=1"
        parsed = make_url(f"sqlite:///file:{quote(str(path))}?mode=ro{still}&uri=true")
    engine = create_engine(parsed)
    try:
        with reading(engine) as connection:
            return engine if inspect(connection).has_table(responses.name) else None
    except SQLAlchemyError as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: SQLAlchemyError) -> StorageError:
    shown = make_url(url).render_as_string(hide_password=True)
    return StorageError(f"cannot open the response store {shown}: {type(error).__name__}; check DISTILL_STORE_URL")


@contextmanager
def writing(engine: Engine, *, survives_power_loss: bool = True) -> Iterator[Connection]:
    """A transaction that writes; on SQLite it takes the write lock at once, so that it never has to be retried.

    Args:
        survives_power_loss: False for what only has to survive this process (a claim), and need not wait for the disk.
    """
    with _turn(engine), engine.connect() as connection:
        is_sqlite = engine.dialect.name == "sqlite"
        if is_sqlite:
            # On the driver's own cursor: a pragma takes effect outside of transactions only.
            pragma = f"PRAGMA synchronous = {'FULL' if survives_power_loss else 'NORMAL'}"
            connection.connection.cursor().execute(pragma)
        with connection.begin():
            if not (is_sqlite or survives_power_loss):
                connection.execute(text("SET LOCAL synchronous_commit = off"))
            yield connection


def _turn(engine: Engine) -> AbstractContextManager[object]:
    """On SQLite, this process's writers queue here: its own way of waiting for a lock is to sleep and look again."""
    return _writer_lock(engine) if engine.dialect.name == "sqlite" else nullcontext()


@cache
def _writer_lock(engine: Engine) -> threading.Lock:
    return threading.Lock()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection that only reads and never waits for a writer."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def serialise(connection: Connection, name: str) -> None:
    """Lets one transaction at a time pass for a name; SQLite's single writer needs nothing more."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": name})


def insert_new(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Inserts the rows whose primary key is not there yet."""
    if rows:
        connection.execute(_insert_new(connection.dialect.name, table), rows)


@cache
def _insert_new(dialect: str, table: Table) -> Executable:
    """The statement, made once: building it costs more than running it on a few rows."""
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def _add_missing(connection: Connection) -> None:
    """Brings a database of an earlier release up to date: columns added since then may all be null."""
    seen = inspect(connection)
    for table in metadata.sorted_tables:
        known = {column["name"] for column in seen.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                kind = column.type.compile(connection.dialect)
                connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}"))
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where `_on_begin` says, not where the driver guesses
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        _write_ahead(cursor)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        if connection.get_isolation_level() != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switches a new file to WAL. While another process is doing that, SQLite fails at once, whatever its time-out."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
