"""The system that is struck: cluster, database, the way to it and its disk; who may strike what.

A replica or the database is struck by one fault at a time, so that each fault is over when it says
so, and its recovery is its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.chaos.disk import Disk
from benchmarks.chaos.driving import Driver, Plan
from benchmarks.chaos.proxy import Proxy
from benchmarks.chaos.recovery import Probes
from benchmarks.chaos.schedule import Fault
from benchmarks.cluster import Cluster, Replica
from synthagent.api.v1.trajectory_pb2 import Trajectory
from synthagent.client import SynthAgentClient
from synthagent.worlds.spec import Task

_PAUSE_SECONDS = 0.2


@dataclass
class System:
    """What is struck, and what strikes it."""

    cluster: Cluster
    proxy: Proxy
    disk: Disk | None
    client: SynthAgentClient
    plan: Plan
    driver: Driver
    probes: Probes
    tasks: list[Task]
    episodes: list[Trajectory]
    """Some undisturbed episodes of the gold agent, to be asked for again."""
    events: list[str] = field(default_factory=list)
    """What else had to be done, such as a replica that was killed because it did not answer."""

    def __post_init__(self) -> None:
        # Places, not processes: what died there and what starts in its place are one fault's.
        self._held: set[tuple[str, int]] = set()
        self._database = asyncio.Lock()

    @asynccontextmanager
    async def replica(self, service: str, chance: random.Random) -> AsyncIterator[Replica]:
        """A replica of the service that no other fault strikes meanwhile."""
        while True:
            living = self.cluster.living(service)
            free = [each for each in living if (service, each.number) not in self._held]
            if free:
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        chosen = chance.choice(free)
        place = (service, chosen.number)
        self._held.add(place)
        try:
            yield chosen
        finally:
            self._held.discard(place)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[None]:
        """The database, the way to it and its disk."""
        async with self._database:
            yield


Strike = Callable[[System, Fault, random.Random], Awaitable[None]]
"""What a fault does, from its beginning until what it struck works again."""
