"""The load on a real server: every call is counted, and so is everybody who is sent away."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.load.driving import crowd, hold_sessions, offer
from benchmarks.tool_calls import import_world
from services.__main__ import ServiceName, registers
from synthagent.server import running
from synthagent.settings import load_settings

LIMIT = 4


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    settings = load_settings(
        database_url=f"sqlite:///{tmp_path / 'load.db'}",
        port=0,
        metrics_port=None,
        drain_seconds=0.1,
        max_sessions=LIMIT,
    )
    async with running(settings, registers(ServiceName.ALL)) as server:
        yield server.address


async def test_a_full_server_goes_on_and_tells_the_others_when_to_come_again(address: str) -> None:
    task_id = await import_world(address)
    held, others = await crowd(address, task_id, LIMIT, 1.2, more=3, period=0.05)
    assert LIMIT < held.answered <= LIMIT * held.seconds / 0.05 + LIMIT
    assert held.errors == {}
    assert others.answered == 0
    assert others.errors == {"RESOURCE_EXHAUSTED": others.told_when}
    assert others.told_when >= 3
    again = await hold_sessions(address, task_id, LIMIT, 0.2)  # nothing was left open
    assert again.errors == {}
    assert again.quantile(0.5) <= again.quantile(0.99) < 0.2 + again.seconds
    called = await offer(address, task_id, 40.0, 0.5)
    assert called.answered == pytest.approx(20, abs=2)


async def test_sessions_that_fail_are_counted(address: str) -> None:
    unknown = await hold_sessions(address, "no-such-task", 3, 0.2)
    assert unknown.errors == {"NOT_FOUND": 3}
    assert unknown.answered == 0
    task_id = await import_world(address)
    too_many = await hold_sessions(address, task_id, LIMIT + 2, 0.2)
    assert too_many.errors == {"RESOURCE_EXHAUSTED": 2}
    assert too_many.answered > 0
