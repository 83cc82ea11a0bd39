"""Whether a replica or the database works, by asking it for what it is there for.

A probe is a real call, to the replica's own address or, of the database, a write through a service.
Its request_ids begin with `invariants.PROBE`, so that they are told from those of episodes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count

import grpc

from benchmarks.chaos.invariants import PROBE
from benchmarks.cluster import PORT, Replica
from synthagent.api.v1.task_pb2 import Persona
from synthagent.api.v1.trajectory_pb2 import Trajectory
from synthagent.client import SynthAgentClient
from synthagent.convert import events_from_proto
from synthagent.errors import SynthAgentError

_CALL_SECONDS = 2.0
_PAUSE_SECONDS = 0.1
LONGEST_SECONDS = 90.0
"""A thing that does not work by then has not recovered."""


class NotRecovered(RuntimeError):
    """What was struck does not work again; the message says what and why."""


@dataclass
class Probes:
    """Asks. `episode` is a finished one with a message to the user; `run_id` any run."""

    client: SynthAgentClient
    episode: Trajectory
    run_id: str

    def __post_init__(self) -> None:
        self._numbers = count()
        self._events = events_from_proto(self.episode.events)
        self._asked = next(
            number for number, event in enumerate(self._events) if event.body.kind == "user"
        )

    async def replica(self, replica: Replica) -> None:
        """Returns once the replica itself answers. Raises NotRecovered."""
        client = SynthAgentClient(f"{replica.host}:{PORT}", timeout_seconds=_CALL_SECONDS)
        async with client:
            await self._until_works(replica.process.name, lambda: self._ask(client, replica))

    async def alive(self, replica: Replica, seconds: float) -> bool:
        """Whether the replica answers within so many seconds: a liveness probe."""
        try:
            async with asyncio.timeout(seconds):
                await self.replica(replica)
        except TimeoutError:
            return False
        return True

    async def database(self) -> None:
        """Returns once a write through a service is stored. Raises NotRecovered."""

        async def write() -> None:
            number = next(self._numbers)
            persona = Persona(description=f"Somebody who asked for the {number}th time.")
            await self.client.import_personas(f"{PROBE}{number}", "probes", [persona])

        await self._until_works("the database", write)

    async def _ask(self, client: SynthAgentClient, replica: Replica) -> object:
        episode, request_id = self.episode, f"{PROBE}{next(self._numbers)}"
        match replica.service:
            case "task_synthesis":
                return await client.get_task(episode.task_id)
            case "tool_mock":
                return await client.call_tool(episode.task_id, "no_such_tool", "{}")
            case "user_simulator":
                return await client.reply(request_id, episode.task_id, self._events[: self._asked])
            case "rubric_judge":
                return await client.judge(request_id, episode.task_id, self._events)
            case _:
                return await client.get_run(self.run_id)

    async def _until_works(self, what: str, ask: Callable[[], Awaitable[object]]) -> None:
        end = time.monotonic() + LONGEST_SECONDS
        while True:
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    await ask()
            except (SynthAgentError, TimeoutError, grpc.RpcError) as error:
                if time.monotonic() > end:
                    raise NotRecovered(f"{what} does not work again: {error!r}") from error
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return
