"""The response store's database, as SQLite and as a real PostgreSQL server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from distill_dagster.teachers.store.database import open_database, writing
from distill_dagster.teachers.store.schema import metadata
from tests.fakes.postgres_server import postgres_binaries, postgres_server


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    with postgres_server(tmp_path_factory.mktemp("postgres"), binaries) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")
    with writing(open_database(url)) as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.delete())
    return url


@pytest.fixture
def engine(store_url: str) -> Engine:
    return open_database(store_url)
