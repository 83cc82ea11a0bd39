"""Several replicas of every service on PostgreSQL, killed, frozen and added under load.

The same run is made twice: undisturbed, and while processes die, stand still and join, and the
database restarts. Both end with the same verdicts on the same event logs, and tool sessions that
are open all the while go on.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from google.protobuf.message import Message

from benchmarks.cluster import SERVICES, Cluster
from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.api.v1.trajectory_pb2 import Trajectory
from synthagent.client import SynthAgentClient
from synthagent.errors import BackendUnavailable
from synthagent.worlds.spec import Split, Task

T = TypeVar("T")
AGENTS = ("GOLD", "CARELESS", "FORBIDDEN", "PESTERER")


async def synthesize(client: SynthAgentClient, count: int) -> list[Task]:
    found = client.synthesize_tasks("cluster", count, Split.TRAIN, difficulty="standard", seed=5)
    return [item async for item in found if isinstance(item, Task)]


async def run(client: SynthAgentClient, name: str, tasks: list[Task], group_size: int) -> None:
    """Runs every agent on every task, `group_size` times, until all have ended."""

    async def one(agent: str) -> None:
        spec = pb.RunSpec(
            reference=pb.ReferenceAgent.Value(f"REFERENCE_AGENT_{agent}"),
            tasks=pb.TaskSelection(task_ids=[task.task_id for task in tasks]),
            group_size=group_size,
            max_turns=64,
            seed=1,
        )
        run_id = f"{name}-{agent.lower()}"
        total = len(tasks) * group_size
        await patiently(lambda: client.create_run(run_id, spec))
        ended = 0
        while ended < total:
            await asyncio.sleep(0.3)
            ended = (await patiently(lambda: client.get_run(run_id))).progress.episodes_ended

    await asyncio.gather(*(one(agent) for agent in AGENTS))


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What the call gives, asked again where a server was killed while it answered."""
    for _ in range(60):
        try:
            return await call()
        except BackendUnavailable:
            await asyncio.sleep(0.5)
    return await call()


async def trajectories(client: SynthAgentClient, run_id: str) -> list[Trajectory]:
    """Every trajectory of a run that has succeeded, with its events."""
    view = await client.get_run(run_id)
    assert view.state == pb.RUN_STATE_SUCCEEDED, pb.RunState.Name(view.state)
    listed = [item.trajectory_id async for item in client.list_trajectories(run_id)]
    assert len(set(listed)) == len(listed) == view.progress.episodes_total
    return [await client.get_trajectory(trajectory_id) for trajectory_id in listed]


async def outcomes(client: SynthAgentClient, name: str) -> dict[str, list[bytes]]:
    """What became of each episode: its verdict and its events, by agent, group and index."""
    found = {}
    for agent in AGENTS:
        for episode in await trajectories(client, f"{name}-{agent.lower()}"):
            kinds = [event.WhichOneof("body") for event in episode.events]
            assert [event.sequence for event in episode.events] == list(range(len(kinds)))
            assert kinds.count("end") == 1
            assert episode.verdict.HasField("reward"), episode.verdict
            for event in episode.events:
                event.ClearField("recorded_at")
            key = episode.trajectory_id.removeprefix(name)
            found[key] = [canonical(episode.verdict), *map(canonical, episode.events)]
    return found


def canonical(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


class Sessions:
    """Tool sessions that make an episode's calls over and over, whatever happens to servers."""

    def __init__(self, client: SynthAgentClient, episodes: list[Trajectory]) -> None:
        self._client = client
        self._episodes = episodes
        self.calls = 0
        self.stop = False

    async def keep(self, number: int) -> None:
        """Goes on until `stop`; every answer is that of the episode."""
        episode = self._episodes[number % len(self._episodes)]
        calls = [event.agent for event in episode.events if event.agent.tool]
        results = [event.tool for event in episode.events if event.HasField("tool")]
        while not self.stop:
            session = await patiently(partial(self._client.open_session, episode.task_id))
            for call, expected in zip(calls, results, strict=True):
                heard = await patiently(partial(session.call, call.tool, call.arguments_json))
                assert heard.result == expected.result_json
                self.calls += 1
                await asyncio.sleep(0.02)
            await session.close()


def strike(cluster: Cluster, chance: random.Random, number: int) -> str:
    """One fault, or one replica more; returns what it was."""
    kind = ("kill", "add", "freeze", "database", "restart")[number % 5]
    service = SERVICES[(number // 5 + number) % len(SERVICES)]
    replicas = [replica for replica in cluster.living(service) if not replica.frozen]
    chosen = chance.choice(replicas)
    if kind == "database":
        cluster.postgresql.restart(away_seconds=1.0)
    elif kind == "add" or len(replicas) == 1:
        cluster.add(service)
    elif kind == "kill":
        cluster.kill(chosen)
    elif kind == "restart":
        cluster.restart(chosen)
    else:
        cluster.freeze(chosen)
    return f"{kind} {service}"


def thaw_all(cluster: Cluster) -> None:
    """Lets the frozen go on: they find that their episodes are others' now."""
    for replica in cluster.living():
        cluster.thaw(replica)


async def compare(cluster: Cluster, *, tasks: int, group_size: int, faults: int) -> list[str]:
    """Makes the two runs and compares them; returns the faults that struck during the second."""
    chance = random.Random(7)
    struck: list[str] = []
    async with cluster.client() as client:
        made = await synthesize(client, tasks)
        await run(client, "calm", made, group_size)
        expected = await outcomes(client, "calm")
        sessions = Sessions(client, await trajectories(client, "calm-gold"))
        held = [asyncio.create_task(sessions.keep(number)) for number in range(8)]
        disturbed = asyncio.create_task(run(client, "rough", made, group_size))
        for number in range(faults):
            struck.append(await asyncio.to_thread(strike, cluster, chance, number))
            await asyncio.sleep(2.0)
            if number % 5 == 4:
                await asyncio.to_thread(thaw_all, cluster)
        await asyncio.to_thread(thaw_all, cluster)
        before = sessions.calls
        await disturbed
        await asyncio.sleep(1.0)
        sessions.stop = True
        await asyncio.gather(*held)
        assert sessions.calls > before  # they go on after the last fault
        assert await outcomes(client, "rough") == expected
    assert len(expected) == len(AGENTS) * tasks * group_size
    return struck


@pytest.mark.timeout(240)
async def test_two_replicas_of_each_of_which_one_is_killed(tmp_path: Path) -> None:
    with Cluster(tmp_path, replicas=2) as cluster:
        assert await compare(cluster, tasks=2, group_size=3, faults=2)


@pytest.mark.replicas
@pytest.mark.timeout(600)
async def test_three_replicas_of_each_under_every_fault(tmp_path: Path) -> None:
    with Cluster(tmp_path, replicas=3) as cluster:
        struck = await compare(cluster, tasks=8, group_size=8, faults=25)
        assert {name.partition(" ")[0] for name in struck} == {
            "kill", "add", "freeze", "database", "restart",
        }  # fmt: skip
