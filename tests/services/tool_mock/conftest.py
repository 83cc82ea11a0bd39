"""Ledgers over a real database and a real model server."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from services.tool_mock.ledger import Ledger
from synthagent.llm import Models
from synthagent.metrics import ServerMetrics
from synthagent.settings import Settings
from synthagent.store import Store, tasks, upgrade
from synthagent.worlds.spec import Task

OpenLedger = Callable[..., Ledger]


@pytest.fixture(scope="session")
def filled_database(tmp_path_factory: pytest.TempPathFactory, certified_example: Task) -> Path:
    """A database file with the example task, certified and not; only to be copied."""
    path = tmp_path_factory.mktemp("filled") / "synthagent.db"
    url = f"sqlite:///{path}"
    upgrade(url)
    uncertified = {"task_id": "uncertified", "certificate": None}

    async def fill() -> None:
        store = Store(url)
        for task in (certified_example, certified_example.model_copy(update=uncertified)):
            await store.write(partial(tasks.put, task=task))
        await store.close()

    asyncio.run(fill())
    return path


@pytest.fixture
def database_url(tmp_path: Path, filled_database: Path) -> str:
    """The URL of a database that holds the example task."""
    return f"sqlite:///{shutil.copy(filled_database, tmp_path / 'synthagent.db')}"


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    opened = Store(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def open_ledger(
    make_settings: Callable[..., Settings], store: Store, metrics: ServerMetrics
) -> AsyncIterator[OpenLedger]:
    """Opens ledgers on one database; `base_url` is that of the tool model, None for no model."""
    async with AsyncExitStack() as stack:

        def open_one(base_url: str | None = None) -> Ledger:
            settings = make_settings(tool=tool_role(base_url) if base_url else None)
            models = Models(settings, store, metrics)
            stack.push_async_callback(models.close)
            ledger = Ledger(store, models, metrics.ledger_calls)
            stack.push_async_callback(ledger.close)
            return ledger

        yield open_one


def tool_role(base_url: str, **fields: object) -> dict[str, object]:
    """Settings of the tool's role."""
    return {"base_url": base_url, "model": "m", "timeout_seconds": 10, "attempts": 1, **fields}


def counted(metrics: ServerMetrics) -> dict[str, float]:
    """Calls of simulated tools by source, where there were any."""
    found = {}
    for source in ("exact", "semantic", "generated", "refused"):
        value = metrics.registry.get_sample_value(
            "synthagent_ledger_calls_total", {"source": source}
        )
        if value:
            found[source] = value
    return found
