"""Databases for tests: SQLite files, and databases of a real PostgreSQL that the session starts.

A test that takes `new_database` runs on SQLite; with `on_both_databases` it runs on PostgreSQL,
too. The server is started by the first test that needs it, once per session, and each test gets
databases of its own, copied from one that has the schema.
"""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from synthagent.postgresql_server import PostgresqlServer
from synthagent.store import upgrade

BACKENDS = ("sqlite", "postgresql")
on_both_databases = pytest.mark.parametrize("database_backend", BACKENDS, indirect=True)
only_on_sqlite = pytest.mark.parametrize("database_backend", ["sqlite"], indirect=True)

_TEMPLATE = "with_schema"
_numbers = count()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """The session's PostgreSQL; its database `with_schema` is the template of others."""
    with PostgresqlServer(settings=("deadlock_timeout=300ms", "max_connections=400")) as server:
        server.execute(f"CREATE DATABASE {_TEMPLATE}")
        upgrade(server.url(_TEMPLATE))
        yield server


@pytest.fixture
def database_backend(request: pytest.FixtureRequest) -> str:
    """On which database the test runs."""
    return str(getattr(request, "param", "sqlite"))


NewDatabase = Callable[[], str]


@pytest.fixture
def new_database(
    database_backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[NewDatabase]:
    """Gives the URL of a fresh database with our schema at each call."""
    if database_backend == "sqlite":
        yield lambda: _with_schema(f"sqlite:///{tmp_path / f'{next(_numbers)}.db'}")
        return
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    made: list[str] = []

    def make() -> str:
        made.append(create(server, template=_TEMPLATE))
        return server.url(made[-1])

    yield make
    for name in made:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _with_schema(url: str) -> str:
    upgrade(url)
    return url


def create(server: PostgresqlServer, template: str = "template1") -> str:
    """Creates a database on the server and returns its name."""
    name = f"test_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return name
