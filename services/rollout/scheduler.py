"""Runs episodes: takes those that wait or whose replica died, within a limit, and renews leases.

A `Scheduler` owns the running episodes of one process. Each is held by a lease in the database
under this process's name. When the process dies, the next one on its host takes its leases at once,
any other when they end. Only leases of what really runs are renewed, so that one whose giving
back failed ends, too. `stop` ends episodes where they are and gives the leases back. An episode
that breaks for an unknown reason is tried again, and given up after `MAX_BREAKS`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

import structlog
from sqlalchemy import Connection

from synthagent.errors import BackendUnavailable, LimitExceeded, SynthAgentError
from synthagent.metrics import ServerMetrics
from synthagent.store import Store, leases
from synthagent.store.episodes import LeaseLost, StoredEpisode

LEASE_SECONDS = 15.0
POLL_SECONDS = 1.0
RETRY_SECONDS = 1.0
MAX_BREAKS = 3
_REMEMBERED_BREAKS = 1024

# Of the database, or of this process under pressure: waiting helps.
_PASSING = (BackendUnavailable, LimitExceeded, MemoryError)

_log = structlog.get_logger()


def process_name() -> str:
    """Name under which this process holds leases: host, process number, something unique."""
    return f"{socket.gethostname()[:40]}/{os.getpid()}/{uuid4().hex[:8]}"


def is_dead(owner: str, me: str) -> bool:
    """Whether a lease's owner was a process of this host that is no more."""
    host, number, _ = owner.rsplit("/", 2)
    my_host, my_number, _ = me.rsplit("/", 2)
    if host != my_host or owner == me:
        return False
    if number == my_number:
        return True  # the number was given anew, to this process
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@dataclass(frozen=True)
class Work:
    """What a scheduler calls. All but `ended` may raise what the store raises."""

    admit: Callable[[], Awaitable[None]]
    """Admits what is due, before episodes are taken."""
    run: Callable[[StoredEpisode], Awaitable[None]]
    """Runs an episode to its end, from wherever it is."""
    give_up: Callable[[StoredEpisode, str], Awaitable[None]]
    """Ends an episode that cannot be run, as a fault of the machinery."""
    ended: Callable[[StoredEpisode], None]
    """Hears of each episode that does not run here any more."""


def _note(what: str, error: Exception, **more: str) -> None:
    """Logs what did not come about: a sentence for a fault that has one, else where it arose."""
    if isinstance(error, SynthAgentError):
        _log.warning(what, why=error.message, **more)
    else:
        _log.error(what, exc_info=error, **more)


class Scheduler:
    """Runs what waits, at most `limit` episodes at a time."""

    def __init__(self, store: Store, metrics: ServerMetrics, *, owner: str, limit: int) -> None:
        self._store = store
        self._metrics = metrics
        self._owner = owner
        self._limit = limit
        self._running: dict[str, tuple[StoredEpisode, asyncio.Task[None]]] = {}
        self._breaks: dict[str, int] = {}
        self._awake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    async def start(self, work: Work) -> None:
        """Takes over what dead processes of this host left, and starts."""
        await self._store.write(self._bury)
        self._loops = [
            asyncio.create_task(self._take_for_ever(work), name="rollout-scheduler"),
            asyncio.create_task(self._renew_for_ever(), name="rollout-leases"),
        ]

    def wake(self) -> None:
        """Says that there may be something to admit or to take."""
        self._awake.set()

    def cancel_run(self, run_id: str) -> None:
        """Stops the run's episodes that run here."""
        for episode, task in self._running.values():
            if episode.run_id == run_id:
                task.cancel()

    async def stop(self) -> None:
        """Stops every episode at the event at which it is, and gives the leases back."""
        for task in self._loops:
            task.cancel()
        tasks = [*self._loops, *(task for _, task in self._running.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._loops:
            self._loops = []
            await self._store.write(lambda c: leases.give_back(c, self._owner))

    def _bury(self, connection: Connection) -> None:
        for owner in leases.owners(connection):
            if is_dead(owner, self._owner):
                leases.give_back(connection, owner)

    async def _take_for_ever(self, work: Work) -> None:
        while True:
            self._awake.clear()
            free = self._limit - len(self._running)
            taken = 0
            try:
                await work.admit()
                if free > 0:
                    taken = await self._take(free, work)
            except Exception as error:  # noqa: BLE001 - or nothing would be taken any more
                _note("no episodes taken", error)  # what waits goes on waiting
            if taken < free or free <= 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._awake.wait()

    async def _take(self, free: int, work: Work) -> int:
        taken = await self._store.write(
            lambda connection: leases.claim(connection, self._owner, LEASE_SECONDS, free)
        )
        for episode in taken:
            if episode.trajectory_id in self._running:
                continue  # its lease had ended while the database was out of reach
            task = asyncio.create_task(self._run(episode, work), name=episode.trajectory_id)
            self._running[episode.trajectory_id] = (episode, task)
        self._metrics.episodes_running.set(len(self._running))
        return len(taken)

    async def _run(self, episode: StoredEpisode, work: Work) -> None:
        try:
            await work.run(episode)
            self._breaks.pop(episode.trajectory_id, None)
        except LeaseLost as error:
            self._breaks.pop(episode.trajectory_id, None)
            _log.info("episode lost", trajectory=episode.trajectory_id, why=str(error))
        except Exception as error:  # noqa: BLE001 - one broken episode never stops the others
            await self._broke(episode, error, work)
        finally:
            self._running.pop(episode.trajectory_id, None)
            self._metrics.episodes_running.set(len(self._running))
            self._awake.set()
            work.ended(episode)

    async def _broke(self, episode: StoredEpisode, error: Exception, work: Work) -> None:
        _note("episode broke", error, trajectory=episode.trajectory_id)
        breaks = self._breaks.pop(episode.trajectory_id, 0) + (not isinstance(error, _PASSING))
        while len(self._breaks) >= _REMEMBERED_BREAKS:  # other replicas ended the oldest, it seems
            del self._breaks[next(iter(self._breaks))]
        with suppress(SynthAgentError, LeaseLost):  # else the lease ends by itself
            if breaks >= MAX_BREAKS:
                await work.give_up(episode, f"{type(error).__name__}: {error}")
            else:
                self._breaks[episode.trajectory_id] = breaks
                await self._store.write(
                    lambda c: leases.release(c, episode.trajectory_id, self._owner, RETRY_SECONDS)
                )

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                running = dict(self._running)
                for trajectory_id in await self._store.write(partial(self._renew, list(running))):
                    running[trajectory_id][1].cancel()  # taken over, or cancelled elsewhere
                age = await self._store.read(leases.queue_age)
                self._metrics.episodes_queue_age_seconds.set(age)
            except Exception as error:  # noqa: BLE001 - tried again, twice before the leases end
                _note("no leases renewed", error)

    def _renew(self, running: list[str], connection: Connection) -> set[str]:
        leases.renew(connection, self._owner, LEASE_SECONDS, running)
        return leases.lost(connection, self._owner, running)
