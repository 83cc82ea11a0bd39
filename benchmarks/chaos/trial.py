"""The trial: the same runs undisturbed, then while faults strike, and what is left afterwards.

`try_out` owns everything it starts: disk, proxy, cluster, callers. It returns what happened and
judges by the database alone (`invariants.py`), and by what must not stay behind (`leftovers.py`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine

from benchmarks.chaos import disk as disks
from benchmarks.chaos import leftovers
from benchmarks.chaos.disk import Disk
from benchmarks.chaos.driving import Driver, Heard, Plan, Sessions, patiently, synthesize
from benchmarks.chaos.evidence import Evidence, tasks_digest
from benchmarks.chaos.invariants import INVARIANTS, Expected, Struck
from benchmarks.chaos.leftovers import Memory
from benchmarks.chaos.proxy import Proxy
from benchmarks.chaos.recovery import NotRecovered, Probes
from benchmarks.chaos.schedule import Fault, FaultKind
from benchmarks.chaos.strikes import STRIKES
from benchmarks.chaos.system import System
from benchmarks.cluster import Cluster
from synthagent.client import SynthAgentClient
from synthagent.channel import KeepAlive
from synthagent.postgresql_server import PostgresqlServer
from synthagent.store.database import now, open_engine

CALM, ROUGH = "calm", "rough"
_SESSIONS = 8
_DISK_MEGABYTES = 1024
_SETTLE_SECONDS = 8.0
_DATABASE = ("max_connections=400", "max_wal_size=96MB", "min_wal_size=32MB", "wal_keep_size=0")


@dataclass(frozen=True)
class Blow:
    """A fault that struck, and how long it took until what it struck worked again."""

    fault: Fault
    struck: Struck
    recovery_seconds: float


@dataclass
class Outcome:
    """Everything that is reported."""

    plan: Plan
    heard: Heard
    blows: list[Blow] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Kinds of faults that cannot be had here, and why."""
    violations: dict[str, list[str]] = field(default_factory=dict)
    """By invariant; none means that it holds."""
    events: list[str] = field(default_factory=list)
    invalid: int = 0
    calm_seconds: float = 0.0
    rough_seconds: float = 0.0
    memory: tuple[Memory, Memory] | None = None
    """Before the first fault and at the end."""

    @property
    def holds(self) -> bool:
        """Whether nothing is violated."""
        return not any(self.violations.values())


Tell = Callable[[str, int, int], None]
"""Hears of progress: what, how many, of how many."""


def try_out(
    folder: Path, plan: Plan, faults: Sequence[Fault], *, seconds: float, tell: Tell, replicas: int = 3
) -> Outcome:
    """Runs the trial; faults that cannot be had on this machine are left out, and said so."""
    why = disks.why_not()
    left_out = {FaultKind.DISK_FULL.value: why} if why else {}
    faults = [fault for fault in faults if fault.kind.value not in left_out]
    temporary = folder / "temporary"
    temporary.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        disk = None if why else stack.enter_context(Disk(_DISK_MEGABYTES))
        home = None if disk is None else disk.folder / "postgresql"
        postgresql = PostgresqlServer(home, settings=_DATABASE)
        proxy = stack.enter_context(Proxy(postgresql.port))
        cluster = Cluster(
            folder / "cluster",
            replicas=replicas,
            postgresql=postgresql,
            settings={"database_url": postgresql.url().replace(f":{postgresql.port}/", f":{proxy.port}/")},
            environment={"TMPDIR": str(temporary)},
        )
        with cluster:
            outcome = asyncio.run(_Trial(cluster, proxy, disk, plan, tell).run(faults, seconds))
            ended = cluster.ended
        outcome.left_out = left_out
    outcome.violations["no_orphan_processes"] = leftovers.orphan_processes(ended)
    outcome.violations["no_orphan_files"] = leftovers.orphan_files(temporary)
    return outcome


class _Trial:
    def __init__(
        self, cluster: Cluster, proxy: Proxy, disk: Disk | None, plan: Plan, tell: Tell
    ) -> None:
        self._cluster = cluster
        self._proxy = proxy
        self._disk = disk
        self._plan = plan
        self._tell = tell
        self._blows: list[Blow] = []

    async def run(self, faults: Sequence[Fault], seconds: float) -> Outcome:
        """Both runs, the faults, and the judgement."""
        keep_alive = KeepAlive(5.0, 5.0)
        async with self._cluster.client(keep_alive=keep_alive) as client:
            tasks = await synthesize(client, self._plan.tasks)
            driver = Driver(client, self._plan, [task.task_id for task in tasks])
            outcome = Outcome(self._plan, driver.heard)
            outcome.calm_seconds = await self._timed(driver, CALM, 0.0)
            calm_named = dict(driver.heard.named)
            system = await self._system(client, driver, tasks)
            outcome.events = system.events
            await asyncio.sleep(_SETTLE_SECONDS)
            before = await asyncio.to_thread(leftovers.memory, self._cluster)
            digest = await asyncio.to_thread(self._tasks_digest)
            async with self._sessions(client, system):
                strikes = asyncio.create_task(self._strike_all(system, faults))
                outcome.rough_seconds = await self._timed(driver, ROUGH, seconds)
                outcome.violations["every_fault_recovered"] = await strikes
            await asyncio.sleep(_SETTLE_SECONDS)
            outcome.memory = (before, await asyncio.to_thread(leftovers.memory, self._cluster))
            # A session whose server was lost ends when its server's end of it does.
            outcome.violations["no_orphan_sessions"] = await leftovers.orphan_sessions(self._cluster)
            for (run, step), ids in list(driver.heard.named.items()):
                await driver.batch(run, step)
                del ids
        outcome.blows = self._blows
        outcome.violations["answers_as_expected"] = driver.heard.wrong
        del calm_named
        outcome.violations["memory_flat"] = leftovers.grown(*outcome.memory)
        await asyncio.to_thread(self._judge, outcome, digest)
        return outcome

    async def _timed(self, driver: Driver, name: str, seconds: float) -> float:
        begun = time.monotonic()
        watching = asyncio.create_task(self._watch(driver, name, driver.heard.episodes))
        await driver.run(name, seconds=seconds)
        watching.cancel()
        return time.monotonic() - begun

    async def _watch(self, driver: Driver, name: str, before: int) -> None:
        while True:
            self._tell(f"{name}: episodes", driver.heard.episodes - before, self._plan.episodes)
            await asyncio.sleep(1.0)

    async def _system(self, client: SynthAgentClient, driver: Driver, tasks: list) -> System:
        pass
