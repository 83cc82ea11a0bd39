"""Trajectories as the embedded system makes them: real lengths, real rewards, shared prompts.

A group is one task of the default difficulty, attempted by each of the five reference agents, whose
episodes differ in length as those of a policy do: one gives up at once, others forget to ask, ask
too often, or do what is forbidden. Seeds are fixed, so every run measures the same tokens.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks import servers
from synthagent.api.v1 import rollout_pb2
from synthagent.client import SynthAgentClient
from synthagent.worlds.spec import Split, Task
from trainer.config import RolloutSettings
from trainer.episodes import Episode
from trainer.stream import RolloutLink

AGENTS = tuple(agent for agent in rollout_pb2.ReferenceAgent.values() if agent)
MAX_TURNS = 64


async def _attempt(address: str, tasks: int) -> None:
    async with SynthAgentClient(address) as client:
        chosen = [
            item.task_id
            async for item in client.synthesize_tasks("trainer-benchmark", tasks, Split.TRAIN)
            if isinstance(item, Task)
        ]
        for agent in AGENTS:
            spec = rollout_pb2.RunSpec(
                reference=agent,
                tasks=rollout_pb2.TaskSelection(task_ids=chosen),
                group_size=1,
                max_turns=MAX_TURNS,
            )
            await client.create_run(_run_id(agent), spec)
            async for _ in client.watch_run(_run_id(agent)):
                pass


def collect(folder: Path, tasks: int) -> list[list[Episode]]:
    """One group of episodes for each of so many tasks; `folder` takes the database."""
    tokenized = {"SYNTHAGENT_TOKENIZE_REFERENCE_AGENTS": "true"}
    with servers.services("all", folder, environment=tokenized) as (_, address):
        asyncio.run(_attempt(address, tasks))
        with RolloutLink(RolloutSettings(address=address)) as link:
            by_agent = [link.stored_groups(_run_id(agent)) for agent in AGENTS]
    return [[group[0] for group in attempts] for attempts in zip(*by_agent, strict=True)]


def _run_id(agent: int) -> str:
    return f"trainer-benchmark-{agent}"
