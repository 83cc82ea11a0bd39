from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from synthagent.store import Store, upgrade


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """The URL of a database that is not there yet."""
    return f"sqlite:///{tmp_path / 'synthagent.db'}"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An open store on a fresh database."""
    upgrade(database_url)
    opened = Store(database_url)
    yield opened
    await opened.close()
