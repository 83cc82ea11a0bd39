import asyncio
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from synthagent.errors import BackendUnavailable, NotFound, PreconditionFailed, StorageFull
from synthagent.metrics import ServerMetrics
from synthagent.store import Store, upgrade
from synthagent.store.database import now, open_engine
from synthagent.store.tables import EventRow, PolicyRow
from tests.databases import only_on_sqlite


def policy(number: int, path: str = "w") -> dict[str, object]:
    return {
        "policy": "default",
        "version": number,
        "weights_path": path,
        "weights_sha256": "",
        "published_at": now(),
    }


def put(connection: Connection, number: int) -> int:
    connection.execute(insert(PolicyRow), policy(number))
    return number


def versions(connection: Connection) -> list[int]:
    return list(connection.scalars(select(col(PolicyRow.version)).order_by("version")))


def stored_versions(database_url: str) -> list[int]:
    """As another process finds them."""
    engine = open_engine(database_url)
    with engine.connect() as connection:
        found = versions(connection)
    engine.dispose()
    return found


async def test_what_was_written_is_read(store: Store) -> None:
    assert await store.write(lambda connection: put(connection, 7)) == 7
    assert await store.read(versions) == [7]


async def test_many_writers_share_commits(database_url: str) -> None:
    metrics = ServerMetrics()
    store = Store(database_url, metrics=metrics)
    await asyncio.gather(*(store.write(partial(put, number=number)) for number in range(200)))
    assert await store.read(versions) == list(range(200))
    commits = metrics.registry.get_sample_value("synthagent_store_commit_seconds_count")
    assert metrics.registry.get_sample_value("synthagent_store_writes_total") == 200
    assert commits is not None
    assert commits < 100
    await store.close()


async def test_one_failure_hurts_no_other_write(store: Store) -> None:
    def fail(connection: Connection) -> int:
        put(connection, 1000)
        raise NotFound("not this one")

    outcomes = await asyncio.gather(
        *(
            store.write(fail if number == 5 else partial(put, number=number))
            for number in range(10)
        ),
        return_exceptions=True,
    )
    assert isinstance(outcomes.pop(5), NotFound)
    assert outcomes == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert await store.read(versions) == [0, 1, 2, 3, 4, 6, 7, 8, 9]


async def test_a_broken_constraint_reaches_its_writer(store: Store) -> None:
    await store.write(lambda c: put(c, 1))
    with pytest.raises(IntegrityError):
        await store.write(lambda c: put(c, 1))
    orphan = {"trajectory_id": "x", "sequence": 0, "kind": "end", "body": "{}", "recorded_at": 0}
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        await store.write(lambda c: c.execute(insert(EventRow), orphan) and None)


async def test_a_write_that_is_cancelled_while_it_waits_does_not_stop_the_others(
    store: Store,
) -> None:
    started = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def slow(connection: Connection) -> None:
        loop.call_soon_threadsafe(started.set_result, None)
        connection.exec_driver_sql(
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000000) "
            "SELECT count(*) FROM c"
        ).all()

    first = asyncio.create_task(store.write(slow))
    await started
    cancelled = asyncio.create_task(store.write(lambda c: put(c, 1)))
    kept = asyncio.create_task(store.write(lambda c: put(c, 2)))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(first, kept)
    assert await store.read(versions) == [2]
    assert cancelled.cancelled()


async def test_close_commits_what_waits_and_refuses_more(database_url: str) -> None:
    store = Store(database_url)
    writes = [asyncio.create_task(store.write(partial(put, number=number))) for number in range(20)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    with pytest.raises(BackendUnavailable, match="shutting down"):
        await store.write(lambda c: put(c, 99))
    assert stored_versions(database_url) == list(range(20))


async def test_a_read_that_outlives_its_store_closes_its_connection(database_url: str) -> None:
    store = Store(database_url)
    began, go_on = threading.Event(), threading.Event()
    opened: list[Any] = []

    def read(connection: Connection) -> None:
        opened.append(connection.connection.dbapi_connection)
        began.set()
        go_on.wait(10)
        connection.scalar(select(1))

    reading = asyncio.create_task(store.read(read))
    await asyncio.to_thread(began.wait, 10)
    await store.close()
    go_on.set()
    await reading
    with pytest.raises(Exception, match="closed"):
        opened[0].execute("SELECT 1")


@only_on_sqlite
async def test_a_database_held_by_another_writer_is_unavailable(database_url: str) -> None:
    store = Store(database_url, busy_seconds=0.1)
    other = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BackendUnavailable, match="busy"):
        await store.write(lambda c: put(c, 1))
    assert await store.read(versions) == []
    other.execute("ROLLBACK")
    other.close()
    assert await store.write(lambda c: put(c, 1)) == 1
    await store.close()


@only_on_sqlite
async def test_a_full_disk_loses_nothing_and_recovers(database_url: str) -> None:
    store = Store(database_url)
    await store.write(lambda c: put(c, 1))

    def too_much(connection: Connection) -> None:
        connection.execute(insert(PolicyRow), policy(2, "x" * 4_000_000))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # A limit on file size is what a full disk looks like to SQLite.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        small, big = await asyncio.gather(
            store.write(lambda c: put(c, 3)), store.write(too_much), return_exceptions=True
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert isinstance(big, StorageFull)
    assert small == 3
    await store.write(lambda c: put(c, 4))
    assert await store.read(versions) == [1, 3, 4]
    await store.close()


@only_on_sqlite
async def test_a_database_that_may_only_be_read_says_so(database_url: str) -> None:
    path = database_url.removeprefix("sqlite:///")
    store = Store(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert await store.read(versions) == []
    with pytest.raises(StorageFull, match="may be written"):
        await store.write(lambda c: put(c, 1))
    await store.close()


def test_what_was_acknowledged_survives_kill_9(database_url: str) -> None:
    program = textwrap.dedent(
        """
        import asyncio, sys
        from sqlalchemy import insert
        from synthagent.store import Store
        from synthagent.store.tables import PolicyRow

        async def main():
            store = Store(sys.argv[1])
            for number in range(100_000):
                row = dict(policy="p", version=number, weights_path="", weights_sha256="",
                           published_at=0)
                await store.write(lambda c: c.execute(insert(PolicyRow), row) and None)
                print(number, flush=True)

        asyncio.run(main())
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, database_url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = -1
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged == 50:
            process.kill()
    process.stdout.close()
    process.wait()
    kept = set(stored_versions(database_url))
    assert acknowledged >= 50
    assert set(range(acknowledged + 1)) <= kept


async def test_reads_do_not_wait_for_a_writer(store: Store) -> None:
    loop = asyncio.get_running_loop()
    started, release = loop.create_future(), asyncio.Event()

    def hold(connection: Connection) -> None:
        put(connection, 1)
        loop.call_soon_threadsafe(started.set_result, None)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(timeout=10)

    writing = asyncio.create_task(store.write(hold))
    await started
    count = await store.read(lambda c: c.scalar(select(func.count()).select_from(PolicyRow)))
    assert count == 0
    release.set()
    await writing


async def test_a_driver_that_is_missing_is_named() -> None:
    with pytest.raises(BackendUnavailable, match="driver"):
        Store("postgresql+nothing://localhost/synthagent")


@pytest.mark.parametrize("url", ["post gres://:::x", "postgresql://user:s3cret@host:port/name"])
async def test_a_url_that_cannot_be_read_is_refused_without_telling_it(url: str) -> None:
    with pytest.raises(PreconditionFailed, match="write it like") as refused:
        Store(url)
    assert "s3cret" not in refused.value.message


def test_a_postgresql_server_that_is_away_is_unavailable_and_names_no_password() -> None:
    with pytest.raises(BackendUnavailable, match="out of reach") as caught:
        upgrade("postgresql+psycopg://synthagent:hidden@127.0.0.1:1/synthagent")
    assert "hidden" not in str(caught.value)
