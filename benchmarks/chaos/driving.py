"""The callers: runs of reference agents in waves, and tool sessions that are open all the while.

The same runs are made twice under two names, undisturbed and disturbed; episode by episode the two
are twins, for which `invariants.py` compares them. A caller asks again where it was told to
(`patiently`), as any caller of ours may: every mutation carries its key.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.api.v1.trajectory_pb2 import Trajectory
from synthagent.client import SynthAgentClient
from synthagent.errors import BackendUnavailable, LimitExceeded, SynthAgentError
from synthagent.worlds.spec import Split, Task

T = TypeVar("T")

AGENTS = ("GOLD", "CARELESS", "FORBIDDEN", "PESTERER")
"""Reference agents; together they earn everything, something and nothing."""

PATIENCE_SECONDS = 300.0
_PAUSE_SECONDS = 0.3
_STREAM_SECONDS = 40.0  # a stream has no deadline of its own
_COPIES = 3  # of each request that creates a run


class WentWrong(RuntimeError):
    """An answer was not what it has to be; the message says which."""


@dataclass(frozen=True)
class Plan:
    """How many episodes: of each agent, `waves` runs of `steps` steps of groups of episodes."""

    waves: int = 25
    steps: int = 5
    groups_per_step: int = 2
    group_size: int = 2
    tasks: int = 20
    seed: int = 1

    @property
    def episodes_per_run(self) -> int:
        """Episodes of one run."""
        return self.steps * self.groups_per_step * self.group_size

    @property
    def episodes(self) -> int:
        """Episodes of all runs."""
        return len(AGENTS) * self.waves * self.episodes_per_run

    def run_ids(self, name: str) -> list[str]:
        """The runs that are made under a name."""
        return [run_id(name, wave, agent) for wave in range(self.waves) for agent in AGENTS]


def run_id(name: str, wave: int, agent: str) -> str:
    """Identifier of a run."""
    return f"{name}-{wave}-{agent.lower()}"


@dataclass
class Heard:
    """What callers were told, to be held against the database afterwards."""

    named: dict[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    """The trajectories of each batch, by run and step, as they were first told."""
    repeated: Counter[str] = field(default_factory=Counter)
    """How often a call was made again, by the error that it got."""
    wrong: list[str] = field(default_factory=list)
    """Answers that were not what they have to be."""
    episodes: int = 0
    """Episodes that came in batches."""
    session_calls: int = 0
    """Calls of tool sessions that are held open."""


async def patiently(call: Callable[[], Awaitable[T]], repeated: Counter[str] | None = None) -> T:
    """What the call gives, asked again where waiting helps.

    `repeated` counts that by the error's reason. Raises what the call raises at the end, and every
    other error at once: INTERNAL is a defect.
    """
    end = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        try:
            return await call()
        except (BackendUnavailable, LimitExceeded, TimeoutError) as error:
            if asyncio.get_running_loop().time() > end:
                raise
            if repeated is not None:
                reason = error.reason if isinstance(error, SynthAgentError) else "TIMEOUT"
                repeated[reason] += 1
            await asyncio.sleep(_PAUSE_SECONDS)


async def synthesize(client: SynthAgentClient, count: int) -> list[Task]:
    """The tasks of every run; asked again, the same."""
    found = client.synthesize_tasks("chaos", count, Split.TRAIN, difficulty="standard", seed=5)
    return [item async for item in found if isinstance(item, Task)]


class Driver:
    """Makes the runs of a plan on the same tasks under different names."""

    def __init__(self, client: SynthAgentClient, plan: Plan, task_ids: Sequence[str]) -> None:
        self._client = client
        self._plan = plan
        self._task_ids = list(task_ids)
        self.heard = Heard()

    def spec(self, wave: int, agent: str) -> pb.RunSpec:
        """The specification of a run; each wave begins with other tasks."""
        ids = self._task_ids
        first = wave * self._plan.steps * self._plan.groups_per_step % len(ids)
        return pb.RunSpec(
            reference=pb.ReferenceAgent.Value(f"REFERENCE_AGENT_{agent}"),
            tasks=pb.TaskSelection(task_ids=ids[first:] + ids[:first]),
            group_size=self._plan.group_size,
            max_turns=64,
            seed=self._plan.seed + wave,
            training=pb.TrainingSteps(
                steps=self._plan.steps, groups_per_step=self._plan.groups_per_step
            ),
        )

    async def run(self, name: str, *, seconds: float = 0.0) -> None:
        """Makes every run under that name, evenly over `seconds`, until all have ended."""
        pause = seconds / self._plan.waves / len(AGENTS)
        async with asyncio.TaskGroup() as group:
            for wave in range(self._plan.waves):
                for agent in AGENTS:
                    group.create_task(self._one(run_id(name, wave, agent), self.spec(wave, agent)))
                    await asyncio.sleep(pause)

    async def create(self, run: str, spec: pb.RunSpec) -> pb.Run:
        """The run, asked for several times at once: every answer is of the same run."""
        create = partial(self._client.create_run, run, spec)
        calls = (patiently(create, self.heard.repeated) for _ in range(_COPIES))
        views = await asyncio.gather(*calls)
        if len({(view.run_id, view.created_at.ToMicroseconds()) for view in views}) != 1:
            self.heard.wrong.append(f"run {run} was created more than once")
        return views[0]

    async def batch(self, run: str, step: int) -> None:
        """Takes a step's batch: it is complete, and the same as it was told before."""
        header, came = await patiently(partial(self._stream, run, step), self.heard.repeated)
        ids = tuple(header.trajectory_ids)
        first = self.heard.named.setdefault((run, step), ids)
        if first is ids:
            self.heard.episodes += len(ids)
        if ids != first or ids != tuple(came):
            self.heard.wrong.append(f"batch {header.batch_id} was another one the second time")

    async def _one(self, run: str, spec: pb.RunSpec) -> None:
        await self.create(run, spec)
        for step in range(self._plan.steps):
            await self.batch(run, step)

    async def _stream(self, run: str, step: int) -> tuple[pb.BatchHeader, list[str]]:
        header, came = pb.BatchHeader(), []
        async with asyncio.timeout(_STREAM_SECONDS):
            async for item in self._client.stream_batch(run, step):
                if item.HasField("header"):
                    header = item.header
                else:
                    came.append(item.trajectory.trajectory_id)
        return header, came


class Sessions:
    """Tool sessions that make the calls of episodes over and over, whatever happens to servers."""

    def __init__(
        self, client: SynthAgentClient, episodes: Sequence[Trajectory], heard: Heard
    ) -> None:
        """`episodes` with at least one tool call each."""
        self._client = client
        self._episodes = episodes
        self._heard = heard
        self.stop = False

    async def keep(self, number: int) -> None:
        """Goes on until `stop`; every answer has to be that of the episode."""
        episode = self._episodes[number % len(self._episodes)]
        calls = [event.agent for event in episode.events if event.agent.tool]
        results = [event.tool for event in episode.events if event.HasField("tool")]
        ask = partial(patiently, repeated=self._heard.repeated)
        while not self.stop:
            session = await ask(partial(self._client.open_session, episode.task_id))
            for call, expected in zip(calls, results, strict=True):
                heard = await ask(partial(session.call, call.tool, call.arguments_json))
                if (heard.result, heard.state_hash) != (expected.result_json, expected.state_hash):
                    self._heard.wrong.append(
                        f"a session on {episode.task_id} answered {call.tool} otherwise"
                    )
                self._heard.session_calls += 1
                await asyncio.sleep(0.02)
            await session.close()
