"""Workers that all tests of a module share, since processes take a while to start."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from services.task_synthesis.workers import Workers
from synthagent.store import Store, upgrade

OpenStore = Callable[[str], AbstractAsyncContextManager[Store]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers() -> AsyncIterator[Workers]:
    opened = Workers(2)
    yield opened
    await opened.close()


@pytest.fixture
def open_store(tmp_path: Path) -> OpenStore:
    """Opens a store on the database of that name, made when it is not there yet."""

    @asynccontextmanager
    async def opened(name: str) -> AsyncIterator[Store]:
        url = f"sqlite:///{tmp_path / name}.db"
        upgrade(url)
        store = Store(url)
        try:
            yield store
        finally:
            await store.close()

    return opened
