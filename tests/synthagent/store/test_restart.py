"""PostgreSQL restarts under load, and its transactions and statements have an end."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import Connection, insert, text

from synthagent.errors import BackendUnavailable, InvalidInput
from synthagent.postgresql_server import PostgresqlServer
from synthagent.store import Store, runs
from synthagent.store.tables import RequestRow
from tests.databases import NewDatabase

only_on_postgresql = pytest.mark.parametrize("database_backend", ["postgresql"], indirect=True)
pytestmark = only_on_postgresql


@pytest.fixture
async def hasty(new_database: NewDatabase) -> AsyncIterator[Store]:
    """A store that waits a second at most."""
    opened = Store(new_database(), busy_seconds=1.0, statement_seconds=1.0)
    yield opened
    await opened.close()


def put(connection: Connection, number: int) -> None:
    row = {"method": "m", "request_id": str(number), "request_digest": "", "created_at": 0}
    connection.execute(insert(RequestRow), row)


def count(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM request")).scalar_one())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_what_fails_during_a_restart_says_when_to_ask_again_and_the_rest_is_kept(
    store: Store, postgresql: PostgresqlServer, number: signal.Signals
) -> None:
    acknowledged: list[int] = []
    refused: list[BackendUnavailable] = []
    stop = asyncio.Event()

    async def load(worker: int) -> None:
        for step in range(100_000):
            if stop.is_set():
                return
            try:
                await store.write(partial(put, number=worker * 100_000 + step))
                acknowledged.append(step)
                await store.read(count)
            except BackendUnavailable as error:
                refused.append(error)
                await asyncio.sleep(0.02)

    workers = [asyncio.create_task(load(worker)) for worker in range(8)]
    async with asyncio.timeout(60):
        while len(acknowledged) < 20:  # noqa: ASYNC110 - counts what many tasks do
            await asyncio.sleep(0.01)
        await asyncio.to_thread(postgresql.restart, number, away_seconds=0.3)
        before = len(acknowledged)
        while len(acknowledged) < before + 20:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*workers)
    assert refused
    assert all(error.retry_after == timedelta(seconds=1) for error in refused)
    # Of those refused while their commit was under way some may be there, too.
    assert len(acknowledged) <= await store.read(count) <= len(acknowledged) + len(refused)


async def test_a_transaction_that_stands_still_holds_its_locks_for_a_while_only(
    hasty: Store,
) -> None:
    def stand_still(connection: Connection) -> None:
        put(connection, 1)
        time.sleep(2.0)
        connection.execute(text("SELECT 1"))

    with pytest.raises(BackendUnavailable):
        await hasty.write(stand_still)
    await hasty.write(partial(put, number=1))  # its row was taken back


async def test_a_statement_that_takes_too_long_is_ended(hasty: Store) -> None:
    with pytest.raises(BackendUnavailable):
        await hasty.read(lambda c: c.execute(text("SELECT pg_sleep(30)")) and None)
    assert await hasty.read(count) == 0


async def test_text_that_postgresql_cannot_hold_is_the_callers_fault(store: Store) -> None:
    with pytest.raises(InvalidInput, match="does not fit the database"):
        await store.read(lambda c: runs.get(c, "a\x00b"))
    with pytest.raises(InvalidInput, match="does not fit the database"):
        await store.write(partial(put, number=10**70))
