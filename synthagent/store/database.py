"""The one way to read and write the database.

A `Store` owns an engine, one writer thread and a few reader threads. Writes are queued and run in
groups: one transaction, one commit for all that wait. When `write` returns, the data is committed;
in SQLite's WAL mode it then survives the end of the process, and a loss of power up to the last
checkpoint. Reads see every write whose await returned before. `close` commits what is queued.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from synthagent.errors import BackendUnavailable, PreconditionFailed
from synthagent.metrics import ServerMetrics
from synthagent.store.faults import is_deadlock, out_of_reach, translate

T = TypeVar("T")
_GROUP_LIMIT = 512
_log = structlog.get_logger()


def now() -> int:
    """The time as the tables hold it: microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def open_engine(
    database_url: str,
    busy_seconds: float = 10.0,
    pool_size: int = 5,
    statement_seconds: float | None = None,
) -> Engine:
    """An engine whose SQLite connections are in WAL mode with explicit transactions.

    A transaction of a connection with the execution option `synthagent_write` takes SQLite's write
    lock when it begins, so it never fails half-way because another process wrote first. On
    PostgreSQL a statement waits `busy_seconds` for a lock, and ends after `statement_seconds`, as
    does a transaction in which nothing happens (None: never); a connection that was lost is
    replaced, and all others of its age with it.
    """
    sqlite = database_url.startswith("sqlite")
    try:
        engine = create_engine(
            database_url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=busy_seconds,
            connect_args={"check_same_thread": False, "timeout": busy_seconds}
            if sqlite
            else _postgresql_arguments(busy_seconds, statement_seconds),
        )
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise BackendUnavailable(
            f"The database driver is not installed ({error}); install it or use sqlite:///FILE."
        ) from error
    except (ArgumentError, ValueError) as error:
        raise PreconditionFailed(
            "The database URL cannot be read; write it like sqlite:///FILE or "
            "postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME."
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql_arguments(busy_seconds: float, statement_seconds: float | None) -> dict[str, Any]:
    """What libpq is told: limits of the session, and how to notice that the server is gone."""
    limits = {"lock_timeout": busy_seconds}
    if statement_seconds is not None:
        limits["statement_timeout"] = statement_seconds
        # A process that stands still in a transaction must not hold its locks for ever.
        limits["idle_in_transaction_session_timeout"] = statement_seconds
    options = " ".join(f"-c {name}={int(seconds * 1000)}" for name, seconds in limits.items())
    return {
        "options": options,
        "connect_timeout": max(2, round(busy_seconds)),
        "keepalives_idle": 20,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        "application_name": "synthagent",
    }


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing; _begin_sqlite does
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA wal_autocheckpoint=4000")  # pages; a checkpoint waits for the disk
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("synthagent_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@dataclass(slots=True)
class _Write:
    run: Callable[[Connection], Any]
    done: Future[Any]


class Store:
    """The database of a process. Functions given to it are called with a Core connection."""

    def __init__(
        self,
        database_url: str,
        *,
        readers: int = 4,
        busy_seconds: float = 10.0,
        statement_seconds: float = 30.0,
        metrics: ServerMetrics | None = None,
    ) -> None:
        self._engine = open_engine(database_url, busy_seconds, readers + 1, statement_seconds)
        self._metrics = metrics
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="store-reader")
        self._writer = threading.Thread(target=self._write_groups, name="store-writer", daemon=True)
        self._closed = False
        self.requests_running: dict[tuple[str, str], tuple[str, asyncio.Future[None]]] = {}
        self._writer.start()

    async def read(self, run: Callable[[Connection], T]) -> T:
        """What `run(connection)` returns, in a transaction of a reader thread.

        Raises what `run` raises; database errors as `translate` names them.
        """
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, run)

    def _read(self, run: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                try:
                    with connection.begin():
                        return run(connection)
                finally:
                    if self._closed and not connection.invalidated:
                        connection.detach()  # its pool is gone: nobody else would close it
        except DBAPIError as error:
            raise (translate(error) or error) from error
        except PoolTimeout as error:
            raise out_of_reach() from error

    async def write(self, run: Callable[[Connection], T]) -> T:
        """What `run(connection)` returns, once the transaction it ran in is committed.

        `run` shares its transaction with others' writes, but not their fate: what it raises undoes
        its own changes only. It may run more than once, so it must do nothing but read and write
        the database. Where the caller is cancelled while it waits, the write may have happened.
        """
        if self._closed:
            raise BackendUnavailable("The store is closed because the server is shutting down.")
        done: Future[T] = Future()
        self._queue.put(_Write(run, done))
        return await asyncio.wrap_future(done)

    async def close(self) -> None:
        """Commits what is queued and releases threads and connections."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(self._readers, self._writer.join)
        self._readers.shutdown(wait=False)
        self._engine.dispose()

    def _write_groups(self) -> None:
        while group := self._next_group():
            self._commit_group(group)

    def _next_group(self) -> list[_Write]:
        """All writes that wait; at least one, or none once the store is closed and emptied."""
        group: list[_Write] = []
        while len(group) < _GROUP_LIMIT:
            try:
                item = self._queue.get(block=not group)
            except queue.Empty:
                break
            if item is None:
                self._queue.put(None)  # found again, alone, by the next call
                break
            if item.done.set_running_or_notify_cancel():
                group.append(item)
        return group

    def _commit_group(self, group: list[_Write]) -> None:
        try:
            results = self._run_group(group)
        except BaseException as error:  # noqa: BLE001 - goes to those who wait, whatever it is
            known = translate(error) if isinstance(error, DBAPIError) else None
            parted = isinstance(error, DBAPIError) and is_deadlock(error)
            if len(group) > 1 and (parted or not isinstance(known, BackendUnavailable)):
                # Which write is at fault is unknown, or the commit itself failed, or only together
                # do they stand in another group's way: each on its own.
                for item in group:
                    self._commit_group([item])
                return
            if known:
                known.__cause__ = error
            for item in group:
                item.done.set_exception(known or error)
            return
        for item, result in zip(group, results, strict=True):
            item.done.set_result(result)

    def _run_group(self, group: list[_Write]) -> list[Any]:
        """Commits a group, and counts it where that succeeded, before anybody hears of it."""
        started = time.perf_counter()
        with (
            self._engine.connect().execution_options(synthagent_write=True) as connection,
            connection.begin(),
        ):
            results = [item.run(connection) for item in group]
        if self._metrics:
            self._metrics.store_commit_seconds.observe(time.perf_counter() - started)
            self._metrics.store_writes.inc(len(group))
        return results
