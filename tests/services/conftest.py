"""A real database with the example task, for services that act on stored tasks."""

from collections.abc import Callable
from pathlib import Path

import pytest

from synthagent.settings import Settings, load_settings
from synthagent.store import Store, tasks, upgrade
from synthagent.worlds.certify import certify
from synthagent.worlds.spec import Task
from tests.example_task import example_task


@pytest.fixture(scope="session")
def certified_example() -> Task:
    """The example task with its certificate."""
    task = example_task()
    return task.model_copy(update={"certificate": certify(task)})


@pytest.fixture
async def database_url(tmp_path: Path, certified_example: Task) -> str:
    """The URL of a database that holds the example task."""
    url = f"sqlite:///{tmp_path / 'synthagent.db'}"
    upgrade(url)
    store = Store(url)
    await store.write(lambda connection: tasks.put(connection, certified_example))
    uncertified = certified_example.model_copy(
        update={"task_id": "uncertified", "certificate": None}
    )
    await store.write(lambda connection: tasks.put(connection, uncertified))
    await store.close()
    return url


@pytest.fixture
def make_settings(database_url: str) -> Callable[..., Settings]:
    """Makes settings of a server on free ports with that database."""

    def make(**overrides: object) -> Settings:
        return load_settings(
            **{
                "database_url": database_url,
                "port": 0,
                "metrics_port": None,
                "drain_seconds": 0.1,
                **overrides,
            }
        )

    return make
