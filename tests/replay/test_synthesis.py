"""The quality path to its end: every product from its persona to a certified, judged task."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.__main__ import ServiceName, registers
from synthagent.api.v1 import task_pb2
from synthagent.client import SynthAgentClient
from synthagent.server import running
from synthagent.settings import load_settings
from synthagent.worlds.certificate import verify
from synthagent.worlds.spec import Split, Task
from tests.replay.products import load

PRODUCTS = load()


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[SynthAgentClient]:
    """All services on one database, with the replay server in every role."""
    process = subprocess.Popen(  # noqa: ASYNC220 - started once, before anything waits
        [sys.executable, "-m", "tests.replay"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    role = {**json.loads(process.stdout.readline()), "attempts": 1}
    settings = load_settings(
        database_url=f"sqlite:///{tmp_path / 'synthagent.db'}",
        port=0,
        metrics_port=None,
        judge_votes=1,
        drain_seconds=0.1,
        **dict.fromkeys(("teacher", "tool", "user", "judge"), role),
    )
    async with running(settings, registers(ServiceName.ALL)) as server:
        yield server.resources.client
    process.terminate()
    process.stdout.close()
    process.wait(timeout=10)


async def synthesize(
    client: SynthAgentClient, kind: task_pb2.ToolKind.ValueType, names: list[str]
) -> list[Task]:
    """The tasks that come of these products, whose personas are drawn in turn."""
    personas = [task_pb2.Persona(**PRODUCTS[name].persona.model_dump()) for name in names]
    request_id = f"replay-{kind}"
    await client.import_personas(f"{request_id}-personas", request_id, personas)
    teacher = task_pb2.ModelTeacher(
        tool_kind=kind, attempts=3, min_solutions=2, persona_set=request_id, repairs=1
    )
    stream = client.synthesize_tasks(request_id, len(names), Split.TRAIN, model=teacher)
    tasks = [item async for item in stream if isinstance(item, Task)]
    items = [item async for item in client.list_synthesis_items(request_id)]
    rejected = {item.reason for item in items if not item.task_id}
    assert len(tasks) == len(names), rejected
    return tasks


async def test_every_simulated_product_becomes_a_certified_task(client: SynthAgentClient) -> None:
    names = [name for name, product in PRODUCTS.items() if not product.is_sql]
    tasks = await synthesize(client, task_pb2.TOOL_KIND_SIMULATED, names)
    instructions = {PRODUCTS[name].instruction.strip() for name in names}
    assert {task.instruction for task in tasks} == instructions
    for task in tasks:
        verify(task)
        judged = [c for c in task.criteria if c.check.kind == "judged"]
        assert judged
        assert len(judged) < len(task.criteria)
        assert [entry async for entry in client.list_ledger_entries(task.task_id)]
    runs = [run async for run in client.list_runs()]
    rewards = [
        trajectory.verdict.reward
        for run in runs
        async for each in client.list_trajectories(run.run_id)
        for trajectory in [await client.get_trajectory(each.trajectory_id)]
        if trajectory.verdict.HasField("reward")
    ]
    assert len(rewards) == 3 * len(tasks)
    assert max(rewards) == 1.0
    assert min(rewards) < 0.5, "some attempts are bad, and the judge tells"


async def test_every_sql_product_becomes_a_certified_task(client: SynthAgentClient) -> None:
    names = [name for name, product in PRODUCTS.items() if product.is_sql]
    for task in await synthesize(client, task_pb2.TOOL_KIND_SQL, names):
        verify(task)
        assert task.gold_plans
