"""A synthesis by models whose server is killed in the middle, and one that nothing interrupts."""

from __future__ import annotations

import signal
from pathlib import Path

from services.__main__ import ServiceName, registers
from synthagent.api.v1 import task_pb2
from synthagent.client import SynthAgentClient
from synthagent.server import running
from synthagent.settings import load_settings
from synthagent.worlds.spec import Split, Task
from tests.services.task_synthesis.model_company import ROLES, Company, company
from tests.services.task_synthesis.test_recovery import Served

COUNT = 4
FAILING = "fish_market"
MODEL = task_pb2.ModelTeacher(
    attempts=2,
    min_solutions=1,
    repairs=0,
    routes=[
        task_pb2.RouteWeight(dimension="domain", value=domain, weight=1.0)
        for domain in (FAILING, "dance_studio", "payroll", "street_market")
    ],
)

Outcome = list[tuple[str, dict[str, str], str, int]]


async def synthesize(address: str, wanted: int) -> list[Task]:
    """The first tasks of the request, as many as wanted."""
    tasks: list[Task] = []
    async with SynthAgentClient(address) as client:
        async for item in client.synthesize_tasks("one", COUNT, Split.TRAIN, seed=3, model=MODEL):
            if isinstance(item, Task):
                tasks.append(item)
                if len(tasks) == wanted:
                    break
    return tasks


async def outcome(address: str) -> Outcome:
    """What became of every item."""
    async with SynthAgentClient(address) as client:
        return [
            (item.task_id, dict(item.route), item.rejected_by, item.usage.calls)
            async for item in client.list_synthesis_items("one")
        ]


def serve(database: Path, models: Company) -> Served:
    settings = models.environment() | {"SYNTHAGENT_JUDGE_VOTES": "1"}
    return Served(database, service="all", settings=settings)


async def test_a_killed_synthesis_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    faults = {FAILING: "tool_set"}
    async with company(faults=faults, pause=0.01) as models:
        with serve(tmp_path / "killed.db", models) as first:
            begun = await synthesize(first.address, 1)
            first.end(signal.SIGKILL)
        with serve(tmp_path / "killed.db", models) as second:
            whole = await synthesize(second.address, COUNT)
            settled = await outcome(second.address)
        once = models.count("teacher", "keep")
    assert whole[0] == begun[0]
    assert once <= COUNT + 1, "only a call that was cut off is made again"
    assert len({task.task_id for task in whole}) == COUNT
    assert any(rejected_by for _, _, rejected_by, _ in settled)

    async with company(faults=faults) as models:  # answers at other times
        roles = {role: models.role(role) for role in ROLES}
        url = f"sqlite:///{tmp_path / 'whole.db'}"
        settings = load_settings(
            database_url=url, port=0, metrics_port=None, drain_seconds=0.1, judge_votes=1, **roles
        )
        async with running(settings, registers(ServiceName.ALL)) as server:
            uninterrupted = await synthesize(server.address, COUNT)
            assert await outcome(server.address) == settled
    assert [task.task_id for task in uninterrupted] == [task.task_id for task in whole]
