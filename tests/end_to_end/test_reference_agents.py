"""300 synthesized tasks of every level and both splits, and agents of known worth on each of them.

This is what the rewards stand on: who does the task earns 1, who does nothing or breaks the rule
earns 0, and who guesses lies between, on every single task, through the services as a model would.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.client import SynthAgentClient
from synthagent.demo import processes
from synthagent.worlds.compose import DIFFICULTIES
from synthagent.worlds.spec import Split, Task

TASKS = {Split.TRAIN: 50, Split.HELD_OUT: 25}
"""Of each level."""
MAX_TURNS = 128


async def synthesized(client: SynthAgentClient) -> AsyncIterator[str]:
    for level in DIFFICULTIES:
        for split, count in TASKS.items():
            name = f"agents-{level}-{split}"
            async for item in client.synthesize_tasks(
                name, count, split, difficulty=level, seed=2026
            ):
                if isinstance(item, Task):
                    yield item.task_id


async def rewards(client: SynthAgentClient, agent: str, task_ids: list[str]) -> list[float]:
    run_id = f"agents-{agent.lower()}"
    spec = pb.RunSpec(
        reference=pb.ReferenceAgent.Value(f"REFERENCE_AGENT_{agent}"),
        tasks=pb.TaskSelection(task_ids=task_ids),
        max_turns=MAX_TURNS,
    )
    await client.create_run(run_id, spec)
    async for run in client.watch_run(run_id):
        progress = run.progress
    assert progress.episodes_ended == len(task_ids)
    assert progress.episodes_invalid == 0
    return [item.verdict.reward async for item in client.list_trajectories(run_id)]


@pytest.mark.timeout(240)
async def test_each_agent_earns_what_it_is_worth_on_every_task(tmp_path: Path) -> None:
    database = {"SYNTHAGENT_DATABASE_URL": f"sqlite:///{tmp_path}/agents.db"}
    with processes.services(tmp_path, database) as address:
        async with SynthAgentClient(address) as client:
            task_ids = [task_id async for task_id in synthesized(client)]
            assert len(set(task_ids)) == 300
            earned = {
                agent: await rewards(client, agent, task_ids)
                for agent in ("GOLD", "NOOP", "CARELESS", "FORBIDDEN", "PESTERER")
            }
    assert set(earned["GOLD"]) == {1.0}
    assert set(earned["PESTERER"]) == {1.0}
    assert set(earned["NOOP"]) == {0.0}
    assert set(earned["FORBIDDEN"]) == {0.0}
    assert all(0.0 < reward < 1.0 for reward in earned["CARELESS"])
