"""A database to serve from."""

from pathlib import Path

import pytest

from synthagent.store import Store, tasks, upgrade
from synthagent.worlds.certify import certify
from tests.example_task import example_task


@pytest.fixture
async def example_database_url(tmp_path: Path) -> str:
    """The URL of a database with the example task, certified."""
    url = f"sqlite:///{tmp_path / 'synthagent.db'}"
    upgrade(url)
    store = Store(url)
    task = example_task()
    task = task.model_copy(update={"certificate": certify(task)})
    await store.write(lambda connection: tasks.put(connection, task))
    await store.close()
    return url
