"""Full-stack episodes per second with the gold agent: rollout, tools, user, judge and database."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks import servers
from benchmarks.results import Result
from synthagent.api.v1 import rollout_pb2
from synthagent.client import SynthAgentClient
from synthagent.worlds.spec import Split, Task

TASKS = 100
EPISODES_PER_TASK = 8


async def _run(address: str) -> float:
    async with SynthAgentClient(address) as client:
        tasks = [
            item.task_id
            async for item in client.synthesize_tasks("benchmark-episodes", TASKS, Split.TRAIN)
            if isinstance(item, Task)
        ]
        spec = rollout_pb2.RunSpec(
            reference=rollout_pb2.REFERENCE_AGENT_GOLD,
            tasks=rollout_pb2.TaskSelection(task_ids=tasks),
            group_size=EPISODES_PER_TASK,
            max_turns=64,
        )
        started = time.perf_counter()
        progress = (await client.create_run("benchmark-episodes", spec)).progress
        async for run in client.watch_run("benchmark-episodes"):
            progress = run.progress
        seconds = time.perf_counter() - started
    if progress.mean_reward != 1.0 or progress.episodes_invalid:
        raise RuntimeError(f"the gold agent did not earn full reward: {progress}")
    return progress.episodes_ended / seconds


def measure(folder: Path) -> list[Result]:
    """Episodes of the gold agent at the default difficulty, all services in one pinned process."""
    with servers.services("all", folder) as (_, address):
        rate = asyncio.run(_run(address))
    return [Result("gold_episodes", rate, "episodes/s", "goal: at least 40", 40.0, 1.0)]
