"""One product from its persona to a judged trajectory, with a model in every role.

The replay server plays teacher, tools, user, judge and auditor; all services run as they are. Then
the same with a user that breaks its rules: the episode is INVALID with the reason, never a reward.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from services.__main__ import ServiceName, registers
from synthagent.api.v1 import rollout_pb2, task_pb2
from synthagent.convert import events_from_proto, verdict_from_proto
from synthagent.server import Running, running
from synthagent.settings import load_settings
from synthagent.worlds.certificate import verify
from synthagent.worlds.episode import Event, InvalidReason, UserReply, Verdict
from synthagent.worlds.spec import Gate, GateStatus, Split, Task
from tests.replay.actors import Actors, Asked
from tests.replay.products import ReplayProduct, load
from tests.replay.server import MODEL, application

NAME = "community_garden"
PRODUCT = load()[NAME]
ROLES = ("teacher", "tool", "user", "judge")
EPISODES = 3
DATABASE = "synthagent.db"
Ended = tuple[Sequence[Event], Verdict]


@asynccontextmanager
async def replaying(actors: Actors) -> AsyncIterator[str]:
    """The base URL of a server that answers as these actors do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(application(actors), log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        await serving


@asynccontextmanager
async def opened(folder: Path, actors: Actors) -> AsyncIterator[Running]:
    """All services over a server of models, on the database of a folder."""
    async with replaying(actors) as base_url:
        role = {"base_url": base_url, "model": MODEL, "attempts": 1}
        settings = load_settings(
            database_url=f"sqlite:///{folder / DATABASE}",
            port=0,
            metrics_port=None,
            drain_seconds=0.1,
            **dict.fromkeys(ROLES, role),
        )
        async with running(settings, registers(ServiceName.ALL)) as server:
            yield server


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Task]:
    """A folder with the database in which the product became a task, and the task."""
    folder = tmp_path_factory.mktemp("taught")

    async def teach() -> Task:
        async with opened(folder, Actors(load())) as server:
            return await synthesized(server, PRODUCT)

    return folder, asyncio.run(teach())


async def synthesized(server: Running, product: ReplayProduct) -> Task:
    """The task that the teacher makes of a product, drawn by its persona on its route."""
    client = server.resources.client
    persona = task_pb2.Persona(**product.persona.model_dump())
    await client.import_personas(f"{product.name}-personas", "one", [persona])
    routes = [
        task_pb2.RouteWeight(dimension=dimension, value=value, weight=1.0)
        for dimension, value in product.route.items()
        if dimension != "persona"
    ]
    teacher = task_pb2.ModelTeacher(
        attempts=EPISODES, min_solutions=2, persona_set="one", routes=routes, items_per_task=1
    )
    stream = client.synthesize_tasks(product.name, 1, Split.TRAIN, model=teacher)
    (task,) = [item async for item in stream if isinstance(item, Task)]
    return task


async def rolled_out(server: Running, run_id: str, task: Task) -> list[Ended]:
    """Episodes in which the model of the teacher acts."""
    client = server.resources.client
    spec = rollout_pb2.RunSpec(
        model=rollout_pb2.ModelAgent(),
        tasks=rollout_pb2.TaskSelection(task_ids=[task.task_id]),
        group_size=EPISODES,
        seed=11,
    )
    await client.create_run(run_id, spec)
    async for _ in client.watch_run(run_id):
        pass
    ids = [each.trajectory_id async for each in client.list_trajectories(run_id)]
    ended = [await client.get_trajectory(trajectory_id) for trajectory_id in ids]
    return [(events_from_proto(t.events), verdict_from_proto(t.verdict)) for t in ended]


class LyingUser(Actors):
    """A user that gives its fact and makes up a name and a number."""

    def answer(self, asked: Asked) -> str:
        """Lies as the user, and is honest in every other role."""
        if asked.schema != "Spoken":
            return super().answer(asked)
        told: dict[str, Any] = {"kind": "unknown", "facts": [], "quote": ""}
        return json.dumps({**told, "text": "Ask Barnaby Crook on 555 0199."})


class StrictAuditor(Actors):
    """An auditor that takes the first reply of the user for a hint."""

    def answer(self, asked: Asked) -> str:
        """Finds a hint, and is itself in every other role."""
        if asked.schema != "UserAudit":
            return super().answer(asked)
        finding = {"sequence": 1, "words": "I", "breach": "leaked_hint", "reason": "It tells how."}
        return json.dumps({"rationale": "r", "findings": [finding], "faithful": False})


async def test_from_a_persona_to_judged_trajectories(taught: tuple[Path, Task]) -> None:
    folder, task = taught
    verify(task)
    assert task.certificate is not None
    applied = {g.gate for g in task.certificate.gates if g.status is GateStatus.PASSED}
    assert applied >= {Gate.COMPILES, Gate.INFORMATION_GAP, Gate.NOVELTY}
    assert (task.domain, task.persona.name) == (NAME, PRODUCT.persona.name)
    assert "PlantingAdvisor" not in {tool.name for tool in task.world.tools}
    async with opened(folder, Actors(load())) as server:
        trajectories = await rolled_out(server, "again", task)
        counted = server.resources.metrics.registry.get_sample_value
        assert counted("synthagent_user_replies_total", {"kind": "revealed"})
    verdicts = [verdict for _, verdict in trajectories]
    assert sorted(v.reward for v in verdicts if v.reward is not None)[1:] == [1.0, 1.0]
    assert min(v.reward for v in verdicts if v.reward is not None) == 0.0, "one breaks the rule"
    for events, verdict in trajectories:
        told = {f for e in events if isinstance(e.body, UserReply) for f in e.body.revealed}
        assert told == {fact.fact_id for fact in task.facts}
        (kept,) = [r for r in verdict.results if r.criterion_id == task.restriction.criterion_id]
        assert kept.votes is not None
        assert kept.votes.yes + kept.votes.no + kept.votes.abstain == 3
        assert kept.evidence
        assert kept.satisfied == (verdict.reward == 1.0)


@pytest.mark.parametrize(
    ("actors", "reason", "detail"),
    [
        (LyingUser, InvalidReason.USER_FAULT, "broke the rules of its role twice"),
        (StrictAuditor, InvalidReason.USER_INFIDELITY, "Reply 1 is a leaked hint"),
    ],
)
async def test_a_user_that_breaks_its_rules_leaves_no_reward(
    tmp_path: Path,
    taught: tuple[Path, Task],
    actors: type[Actors],
    reason: InvalidReason,
    detail: str,
) -> None:
    folder, task = taught
    shutil.copy(folder / DATABASE, tmp_path / DATABASE)
    async with opened(tmp_path, actors(load())) as server:
        trajectories = await rolled_out(server, "broken", task)
    assert len(trajectories) == EPISODES
    for _, verdict in trajectories:
        assert verdict.reward is None
        assert verdict.invalid_reason is reason
        assert detail in verdict.detail
