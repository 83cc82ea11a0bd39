from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection

from synthagent.postgresql_server import PostgresqlServer
from synthagent.store import Store, episodes, runs
from synthagent.store.runs import RunState, StoredGroup, StoredRun
from synthagent.store.tasks import put
from synthagent.worlds.certify import certify
from tests.databases import BACKENDS, NewDatabase, create
from tests.example_task import example_task


@pytest.fixture(params=BACKENDS)
def database_backend(request: pytest.FixtureRequest) -> str:
    """Tests of the store run on both databases."""
    return str(request.param)


@pytest.fixture
def database_url(new_database: NewDatabase) -> str:
    """The URL of a fresh database with our schema."""
    return new_database()


@pytest.fixture
def empty_database_url(
    database_backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The URL of a database without our schema; with SQLite it is not there yet."""
    if database_backend == "sqlite":
        yield f"sqlite:///{tmp_path / 'synthagent.db'}"
        return
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    name = create(server)
    yield server.url(name)
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An open store on a fresh database."""
    opened = Store(database_url)
    yield opened
    await opened.close()


def example_run(run_id: str = "r", digest: str = "d") -> StoredRun:
    """A run of the example task."""
    return StoredRun(run_id, "{}", digest, ("example-court-booking",), RunState.RUNNING, 5)


def admit(connection: Connection, run_id: str, step: int, ordinal: int, size: int = 2) -> None:
    """One group of `size` pending episodes."""
    group = StoredGroup(f"{run_id}.{ordinal}", run_id, step, ordinal, "example-court-booking")
    rows = [
        episodes.pending_row(
            trajectory_id=f"{run_id}.{ordinal}.{index}",
            run_id=run_id,
            group_id=group.group_id,
            index=index,
            task_id=group.task_id,
            split="train",
            agent="gold",
            admitted_at=10 * ordinal + index,
        )
        for index in range(size)
    ]
    runs.admit(connection, [group], rows)


@pytest.fixture
async def filled(store: Store) -> Store:
    """A store with the example task and a run "r"."""
    task = example_task()
    certified = task.model_copy(update={"certificate": certify(task)})
    await store.write(lambda c: put(c, certified))
    await store.write(lambda c: runs.create(c, example_run()))
    return store


@pytest.fixture
async def admitted(filled: Store) -> Store:
    """A store with a run of two groups of two waiting episodes."""
    for ordinal in range(2):
        await filled.write(partial(admit, run_id="r", step=0, ordinal=ordinal))
    return filled
