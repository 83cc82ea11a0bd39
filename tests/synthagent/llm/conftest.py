"""Models over a real database, for roles whose server a test gives."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from synthagent.llm import LanguageModel, Models
from synthagent.metrics import ServerMetrics
from synthagent.settings import load_settings
from synthagent.store import Store, upgrade

OpenModel = Callable[..., LanguageModel]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'synthagent.db'}"
    upgrade(url)
    return url


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics()


@pytest.fixture
async def open_model(database_url: str, metrics: ServerMetrics) -> AsyncIterator[OpenModel]:
    """Opens the judge's model at a base URL; each call has a store of its own on one database."""
    async with AsyncExitStack() as stack:

        def open_one(base_url: str, **role: object) -> LanguageModel:
            store = Store(database_url)
            stack.push_async_callback(store.close)
            judge = {"base_url": base_url, "model": "m", "timeout_seconds": 5, "attempts": 1}
            models = Models(load_settings(judge=judge | role), store, metrics)
            stack.push_async_callback(models.close)
            return models.need("judge")

        yield open_one
