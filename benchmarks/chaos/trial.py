"""The trial: the same runs undisturbed, then while faults strike, and what is left afterwards.

`try_out` owns everything it starts: disk, proxy, cluster, callers. It returns what happened and
judges by the database alone (`invariants.py`), and by what must not stay behind (`leftovers.py`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection

from benchmarks.chaos import disk as disks
from benchmarks.chaos import leftovers
from benchmarks.chaos.disk import Disk
from benchmarks.chaos.driving import Driver, Heard, Plan, Sessions, run_id, synthesize
from benchmarks.chaos.evidence import Evidence, tasks_digest
from benchmarks.chaos.invariants import INVARIANTS, PROBE, Expected, Struck
from benchmarks.chaos.leftovers import Memory
from benchmarks.chaos.proxy import Proxy
from benchmarks.chaos.recovery import NotRecovered, Probes
from benchmarks.chaos.schedule import Fault, FaultKind
from benchmarks.chaos.strikes import STRIKES, press
from benchmarks.chaos.system import System
from benchmarks.cluster import PORT, Cluster
from synthagent.api.v1.trajectory_pb2 import Trajectory
from synthagent.channel import KeepAlive
from synthagent.client import SynthAgentClient
from synthagent.errors import SynthAgentError
from synthagent.postgresql_server import PostgresqlServer
from synthagent.store.database import now, open_engine
from synthagent.worlds.spec import Task

CALM, ROUGH = "calm", "rough"
_SESSIONS = 8
_DISK_MEGABYTES = 1024
_SETTLE_SECONDS = 8.0
_PRESS_SECONDS = 0.5
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
    struck_under_way: int = 0
    """Faults during which an episode of the disturbed runs was under way."""
    calm_seconds: float = 0.0
    rough_seconds: float = 0.0
    memory: tuple[Memory, Memory] | None = None
    """Before the first fault and at the end."""

    @property
    def holds(self) -> bool:
        """Whether nothing is violated."""
        return not any(self.violations.values())


Tell = Callable[[str, int, int], None]
"""Hears of progress: of what, how many there are, and of how many."""


def try_out(
    folder: Path,
    plan: Plan,
    faults: Sequence[Fault],
    *,
    seconds: float,
    tell: Tell,
    replicas: int = 3,
) -> Outcome:
    """Runs the trial in `folder`; the disturbed run takes at least so many seconds.

    Faults that cannot be had on this machine are left out, and said so.
    """
    why = disks.why_not()
    left_out = {FaultKind.DISK_FULL.value: why} if why else {}
    temporary = folder / "temporary"
    temporary.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        disk = None if why else stack.enter_context(Disk(_DISK_MEGABYTES))
        home = None if disk is None else disk.folder / "postgresql"
        postgresql = PostgresqlServer(home, settings=_DATABASE)
        proxy = stack.enter_context(Proxy(postgresql.port))
        by_proxy = postgresql.url().replace(f":{postgresql.port}/", f":{proxy.port}/")
        cluster = Cluster(
            folder / "cluster",
            replicas=replicas,
            postgresql=postgresql,
            settings={"database_url": by_proxy},
            environment={"TMPDIR": str(temporary)},
        )
        with cluster:
            trial = _Trial(cluster, proxy, disk, plan, tell)
            possible = [fault for fault in faults if fault.kind.value not in left_out]
            outcome = asyncio.run(trial.run(possible, seconds))
    outcome.left_out = left_out
    outcome.violations["no_orphan_processes"] = leftovers.orphan_processes(cluster.started)
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

    async def run(self, faults: Sequence[Fault], seconds: float) -> Outcome:
        """Both runs, the faults between, and the judgement."""
        async with self._cluster.client(keep_alive=KeepAlive(5.0, 5.0)) as client:
            tasks = await synthesize(client, self._plan.tasks)
            driver = Driver(client, self._plan, [task.task_id for task in tasks])
            outcome = Outcome(self._plan, driver.heard)
            outcome.calm_seconds = await self._timed(driver, CALM, 0.0)
            system = await self._system(client, driver, tasks)
            outcome.events = system.events
            await self._warm_up(system)
            before = await self._settled()
            digest = await asyncio.to_thread(self._tasks_digest)
            async with self._sessions(system):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._strike_all(system, faults, outcome))
                    disturbed = group.create_task(self._timed(driver, ROUGH, seconds))
                outcome.rough_seconds = disturbed.result()
            outcome.memory = (before, await self._settled())
            outcome.violations["no_orphan_sessions"] = await leftovers.orphan_sessions(
                self._cluster
            )
            for run, step in list(driver.heard.named):
                await driver.batch(run, step)
        outcome.violations["answers_as_expected"] = driver.heard.wrong
        outcome.violations["memory_flat"] = leftovers.grown(*outcome.memory)
        await asyncio.to_thread(self._judge, outcome, digest)
        return outcome

    async def _warm_up(self, system: System) -> None:
        """Lets every replica do once what it will do while faults strike, to its working size."""
        for replica in self._cluster.living():
            await system.probes.replica(replica)
            await press(replica, _PRESS_SECONDS, at_once=2)
            if replica.service == "task_synthesis":
                async with SynthAgentClient(f"{replica.host}:{PORT}") as client:
                    # Certified by a worker, compared with all that are stored, and stored before.
                    name = f"{PROBE}warm-{replica.number}"
                    await client.import_tasks(name, system.tasks[:1])

    async def _settled(self) -> Memory:
        await asyncio.sleep(_SETTLE_SECONDS)
        return await asyncio.to_thread(leftovers.memory, self._cluster)

    async def _timed(self, driver: Driver, name: str, seconds: float) -> float:
        begun, before = time.monotonic(), driver.heard.episodes

        def tell() -> None:
            came = driver.heard.episodes - before
            self._tell(f"episodes, {name}", came, self._plan.episodes)

        async def watch() -> None:
            while True:
                tell()
                await asyncio.sleep(1.0)

        watching = asyncio.create_task(watch())
        try:
            await driver.run(name, seconds=seconds)
        finally:
            watching.cancel()
        tell()
        return time.monotonic() - begun

    async def _system(self, client: SynthAgentClient, driver: Driver, tasks: list[Task]) -> System:
        first = run_id(CALM, 0, "GOLD")
        ids = [ids[0] for (run, _), ids in driver.heard.named.items() if run == first]
        episodes = [await client.get_trajectory(each) for each in ids]
        return System(
            cluster=self._cluster,
            proxy=self._proxy,
            disk=self._disk,
            client=client,
            plan=self._plan,
            driver=driver,
            probes=Probes(client, next(each for each in episodes if _asks(each)), first),
            tasks=tasks,
            episodes=[each for each in episodes if _asks(each) and _calls(each)],
        )

    @asynccontextmanager
    async def _sessions(self, system: System) -> AsyncIterator[None]:
        """Tool sessions that are open meanwhile, and go on after the last fault."""
        heard = system.driver.heard
        sessions = Sessions(system.client, system.episodes, heard)
        async with asyncio.TaskGroup() as group:
            for number in range(_SESSIONS):
                group.create_task(sessions.keep(number))
            try:
                yield
                before = heard.session_calls
                await asyncio.sleep(1.0)
                if heard.session_calls == before:
                    heard.wrong.append("tool sessions stand still after the last fault")
            finally:
                sessions.stop = True

    async def _strike_all(self, system: System, faults: Sequence[Fault], outcome: Outcome) -> None:
        begun = time.monotonic()
        failures = outcome.violations.setdefault("every_fault_recovered", [])

        async def strike(fault: Fault) -> None:
            await asyncio.sleep(begun + fault.at - time.monotonic())
            began_at, start = now(), time.monotonic()
            try:
                await STRIKES[fault.kind](system, fault, random.Random(fault.number))  # noqa: S311 - a schedule, no secret
            except (NotRecovered, SynthAgentError) as error:
                failures.append(f"{fault.kind} of {fault.target}: {error}")
            struck = Struck(fault.kind.value, began_at, now())
            outcome.blows.append(Blow(fault, struck, time.monotonic() - start))
            self._tell("faults", len(outcome.blows), len(faults))

        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(strike(fault))

    @contextmanager
    def _database(self) -> Iterator[Connection]:
        """A connection to the database at its own address, not through the proxy."""
        engine = open_engine(self._cluster.database_url)
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    def _tasks_digest(self) -> str:
        with self._database() as connection:
            return tasks_digest(connection)

    def _judge(self, outcome: Outcome, digest: str) -> None:
        """What the database says."""
        with self._database() as connection:
            evidence = Evidence.read(connection)
            stuck = leftovers.stuck_transactions(connection)
        calm, rough = self._plan.run_ids(CALM), self._plan.run_ids(ROUGH)
        expected = Expected(
            twins=dict(zip(rough, calm, strict=True)),
            named=outcome.heard.named,
            faults=[blow.struck for blow in outcome.blows],
            tasks_digest=digest,
        )
        outcome.violations["no_stuck_transactions"] = stuck
        for invariant in INVARIANTS:
            outcome.violations[invariant.__name__] = invariant(evidence, expected)
        rows = [row for run in rough for row in evidence.episodes[run]]
        outcome.invalid = sum(row.invalid_reason is not None for row in rows)
        ran = [(row.started_at, row.ended_at) for row in rows if row.ended_at is not None]
        outcome.struck_under_way = sum(
            any(start <= blow.struck.ended_at and end >= blow.struck.began_at for start, end in ran)
            for blow in outcome.blows
        )


def _asks(episode: Trajectory) -> bool:
    return any(event.HasField("user") for event in episode.events)


def _calls(episode: Trajectory) -> bool:
    return any(event.HasField("tool") for event in episode.events)
