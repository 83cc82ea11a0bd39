"""The client's typed methods against the real services, all in this process."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.__main__ import ServiceName, registers
from synthagent.api.v1 import rollout_pb2, task_pb2
from synthagent.client import SynthAgentClient
from synthagent.errors import Conflict, InvalidInput, NotFound, RequestIdReused, StepOutOfRange
from synthagent.server import running
from synthagent.settings import load_settings
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import AgentAction, AgentTurn, Event, ReplyKind
from synthagent.worlds.plans import run_plan
from synthagent.worlds.spec import Split, Task
from tests.example_task import example_task

EXAMPLE = "example-court-booking"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SynthAgentClient]:
    """A client of one server for all tests here: it takes seconds to start."""
    path = tmp_path_factory.mktemp("store") / "synthagent.db"
    settings = load_settings(database_url=f"sqlite:///{path}", port=0, drain_seconds=1.0)
    async with running(settings, registers(ServiceName.ALL)) as server:
        imported = await server.resources.client.import_tasks("example", [example_task()])
        assert list(imported.task_ids) == [EXAMPLE]
        async with SynthAgentClient(server.address) as opened:
            yield opened


async def test_a_synthesis_streams_tasks_and_a_repeat_streams_them_again(
    client: SynthAgentClient,
) -> None:
    async def synthesize(count: int) -> tuple[list[Task], task_pb2.SynthesisProgress]:
        items = [item async for item in client.synthesize_tasks("s", count, Split.TRAIN, seed=5)]
        assert isinstance(items[-1], task_pb2.SynthesisProgress)
        return [item for item in items if isinstance(item, Task)], items[-1]

    tasks, progress = await synthesize(3)
    assert (len(tasks), progress.requested, progress.admitted) == (3, 3, 3)
    assert all(task.certificate is not None and task.certificate.passed for task in tasks)
    assert (await synthesize(3))[0] == tasks
    assert await client.get_task(tasks[0].task_id) == tasks[0]
    listed = [summary.task_id async for summary in client.list_tasks(split=Split.TRAIN)]
    assert listed == [EXAMPLE, *(task.task_id for task in tasks)]
    with pytest.raises(RequestIdReused):
        await synthesize(4)


async def test_an_import_says_what_it_refuses(client: SynthAgentClient) -> None:
    broken = example_task().model_copy(update={"task_id": "other", "facts": ()})
    with pytest.raises(NotFound):
        await client.get_task("other")
    response = await client.import_tasks("i", [broken])
    assert [rejection.index for rejection in response.rejected] == [0]
    assert response.rejected[0].reason
    with pytest.raises(RequestIdReused):
        await client.import_tasks("i", [example_task()])


async def test_the_user_answers_once_per_request(client: SynthAgentClient) -> None:
    def asking(text: str) -> list[Event]:
        turn = AgentTurn(text=text, action=AgentAction.MESSAGE, content=text)
        return [Event(sequence=0, body=turn)]

    reply = await client.reply("u", EXAMPLE, asking("Which day should I book?"))
    assert reply.reply is ReplyKind.REVEALED
    assert reply.revealed == ("day",)
    assert await client.reply("u", EXAMPLE, asking("Which day should I book?")) == reply
    with pytest.raises(RequestIdReused):
        await client.reply("u", EXAMPLE, asking("Who plays?"))


async def test_a_gold_episode_is_judged(client: SynthAgentClient) -> None:
    task = example_task()
    events = run_plan(compile_world(task.world), task, task.gold_plans[0])
    verdict = await client.judge("j", EXAMPLE, events)
    assert verdict.reward == 1.0
    assert len(verdict.results) == len(task.criteria)
    with pytest.raises(InvalidInput, match="paper"):
        await client.judge("k", EXAMPLE, events, "generous")


async def test_a_run_from_creation_to_trajectory(client: SynthAgentClient) -> None:
    spec = rollout_pb2.RunSpec(
        reference=rollout_pb2.REFERENCE_AGENT_GOLD,
        tasks=rollout_pb2.TaskSelection(task_ids=[EXAMPLE]),
        group_size=2,
        training=rollout_pb2.TrainingSteps(steps=1, groups_per_step=1),
    )
    created = await client.create_run("run", spec)
    assert (await client.create_run("run", spec)).created_at == created.created_at
    other = rollout_pb2.RunSpec(reference=rollout_pb2.REFERENCE_AGENT_NOOP, tasks=spec.tasks)
    with pytest.raises(Conflict):
        await client.create_run("run", other)
    states = [run async for run in client.watch_run("run")]
    assert states[-1].state == rollout_pb2.RUN_STATE_SUCCEEDED
    assert states[-1].progress.mean_reward == 1.0
    header, *items = [item async for item in client.stream_batch("run", 0)]
    ids = list(header.header.trajectory_ids)
    assert [item.trajectory.trajectory_id for item in items] == ids
    listed = {item.trajectory_id async for item in client.list_trajectories("run")}
    assert listed == set(ids)
    assert (await client.get_trajectory(ids[0])).verdict.reward == 1.0
    assert [run.run_id async for run in client.list_runs()] == ["run"]
    assert (await client.get_run("run")).state == rollout_pb2.RUN_STATE_SUCCEEDED
    assert (await client.cancel_run("run")).state == rollout_pb2.RUN_STATE_SUCCEEDED
    with pytest.raises(StepOutOfRange):
        _ = [item async for item in client.stream_batch("run", 1)]
