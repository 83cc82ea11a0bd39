import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
from sqlalchemy import Connection

from services.rollout import scheduler as module
from services.rollout.order import group_id, trajectory_id
from services.rollout.scheduler import MAX_BREAKS, Scheduler, Work, is_dead, process_name
from synthagent.metrics import ServerMetrics
from synthagent.store import Store, episodes, leases, runs
from synthagent.store.database import now
from synthagent.store.episodes import LeaseLost, StoredEpisode
from synthagent.store.runs import RunState, StoredGroup, StoredRun
from synthagent.store.tasks import put
from tests.databases import on_both_databases
from tests.services.rollout.conftest import certified_tasks

FAR = 10**9


async def _prepared(url: str, count: int = 6) -> Store:
    """A store in which a run of `count` groups of one episode waits."""
    store = Store(url)
    task = certified_tasks()[0]

    def write(connection: Connection) -> None:
        put(connection, task)
        run = StoredRun("r", "{}", "", (task.task_id,), RunState.RUNNING, now())
        runs.create(connection, run)
        groups = [StoredGroup(group_id("r", n), "r", 0, n, task.task_id) for n in range(count)]
        rows = [
            episodes.pending_row(
                trajectory_id=trajectory_id("r", n, 0),
                run_id="r",
                group_id=group_id("r", n),
                index=0,
                task_id=task.task_id,
                split=task.split.value,
                agent="gold",
                admitted_at=now() - count + n,
            )
            for n in range(count)
        ]
        runs.admit(connection, groups, rows)

    await store.write(write)
    return store


class Log:
    """Runs episodes by noting them; `run` may be replaced."""

    def __init__(self, *, hold: bool = False) -> None:
        self.ran: list[str] = []
        self.given_up: list[tuple[str, str]] = []
        self.ended: list[str] = []
        self.hold = hold
        self.most = self.now = 0

    async def run(self, episode: StoredEpisode) -> None:
        self.ran.append(episode.trajectory_id)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(1000 if self.hold else 0.001)
        finally:
            self.now -= 1

    async def admit(self) -> None:
        """Nothing is ever due."""

    async def give_up(self, episode: StoredEpisode, detail: str) -> None:
        self.given_up.append((episode.trajectory_id, detail))

    @property
    def work(self) -> Work:
        return Work(
            admit=self.admit,
            run=self.run,
            give_up=self.give_up,
            ended=lambda episode: self.ended.append(episode.trajectory_id),
        )


@asynccontextmanager
async def _scheduling(
    store: Store, log: Log, *, owner: str = "", limit: int = 2
) -> AsyncIterator[Scheduler]:
    chosen = Scheduler(store, ServerMetrics(), owner=owner or process_name(), limit=limit)
    await chosen.start(log.work)
    try:
        yield chosen
    finally:
        await chosen.stop()


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what changes is not ours to signal
            await asyncio.sleep(0.01)


def test_a_process_of_this_host_that_is_no_more_is_dead() -> None:
    me = process_name()
    host = me.rsplit("/", 2)[0]
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_dead(f"{host}/{child.pid}/0badcafe", me)
    assert is_dead(f"{host}/{os.getpid()}/0badcafe", me)
    assert not is_dead(me, me)
    assert not is_dead(f"{host}/{os.getppid()}/0badcafe", me)
    assert not is_dead(f"elsewhere/{child.pid}/0badcafe", me)


@on_both_databases
async def test_episodes_run_in_order_of_admission_within_the_limit(database_url: str) -> None:
    store, log = await _prepared(database_url), Log()
    async with _scheduling(store, log):
        await _until(lambda: len(log.ended) == 6)
    assert log.ran == [f"r.{n}.0" for n in range(6)]
    assert log.most == 2
    await store.close()


@on_both_databases
async def test_what_a_dead_process_left_is_taken_at_once(
    database_url: str,
) -> None:
    store, log = await _prepared(database_url, 3), Log()
    me = process_name()
    dead = f"{me.rsplit('/', 2)[0]}/{os.getpid()}/0badcafe"
    for owner, seconds in ((dead, FAR), ("elsewhere/1/1", FAR), ("elsewhere/1/2", 0.4)):
        await store.write(partial(leases.claim, owner=owner, seconds=seconds, limit=1))
    async with _scheduling(store, log, owner=me):
        await _until(lambda: "r.0.0" in log.ran)
        assert "r.2.0" not in log.ran
        await _until(lambda: "r.2.0" in log.ran)
    assert "r.1.0" not in log.ran
    await store.close()


@on_both_databases
async def test_stopping_gives_the_leases_back(database_url: str) -> None:
    store = await _prepared(database_url, 3)
    async with _scheduling(store, first := Log(hold=True), limit=3):
        await _until(lambda: len(first.ran) == 3)
    async with _scheduling(store, second := Log(), limit=3):
        await _until(lambda: len(second.ended) == 3)
    assert sorted(second.ran) == sorted(first.ran)
    await store.close()


@on_both_databases
async def test_an_episode_that_breaks_is_tried_again_and_given_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    store = await _prepared(database_url, 2)

    class Breaking(Log):
        async def run(self, episode: StoredEpisode) -> None:
            await super().run(episode)
            if episode.trajectory_id == "r.0.0":
                raise KeyError("no such thing")

        async def give_up(self, episode: StoredEpisode, detail: str) -> None:
            await super().give_up(episode, detail)
            raise LeaseLost("ended otherwise")

    async with _scheduling(store, log := Breaking()):
        await _until(lambda: log.given_up)
    assert log.ran.count("r.0.0") == MAX_BREAKS
    assert log.ran.count("r.1.0") == 1
    assert log.given_up == [("r.0.0", "KeyError: 'no such thing'")]
    await store.close()


@on_both_databases
async def test_a_lease_of_its_own_that_does_not_run_ends_and_is_taken_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is when the connection broke as the lease was taken, or as it was given back."""
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    store, log = await _prepared(database_url, 2), Log(hold=True)
    me = process_name()
    async with _scheduling(store, log, owner=me, limit=2):
        await _until(lambda: len(log.ran) == 2)
    await store.write(partial(leases.claim, owner=me, seconds=0.3, limit=1))
    async with _scheduling(store, log := Log(hold=True), owner=me, limit=2):
        await _until(lambda: sorted(log.ran) == ["r.0.0", "r.1.0"])
        await asyncio.sleep(1.0)  # what runs is renewed, and not taken twice
        assert log.now == log.most == 2
    await store.close()


@on_both_databases
async def test_leases_are_renewed_and_lost_episodes_are_let_go(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.3)
    store = await _prepared(database_url, 2)
    async with _scheduling(store, log := Log(hold=True)):
        await _until(lambda: log.now == 2)
        await asyncio.sleep(0.5)
        assert log.ran == ["r.0.0", "r.1.0"]
        await store.write(lambda c: episodes.cancel(c, "r"))
        await _until(lambda: log.now == 0)
    await store.close()


async def test_a_fault_that_nobody_foresaw_ends_neither_loop(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    store, log = await _prepared(database_url, 1), Log(hold=True)
    faults = {"admit": 2, "queue_age": 2}

    def fail(what: str) -> None:
        if faults[what]:
            faults[what] -= 1
            raise TypeError(what)

    async def admit() -> None:
        fail("admit")

    def queue_age(connection: Connection) -> float:
        fail("queue_age")
        return 7.0

    monkeypatch.setattr(log, "admit", admit)
    monkeypatch.setattr(leases, "queue_age", queue_age)
    async with _scheduling(store, log):
        await _until(lambda: log.ran and not any(faults.values()))
        held = await store.read(leases.owners)
        await asyncio.sleep(0.6)  # two leases: it would have ended
        taken = await store.write(partial(leases.claim, owner="another/1/1", seconds=1, limit=1))
        assert (len(held), taken, log.ran) == (1, [], ["r.0.0"])
    await store.close()
