"""Requests for the model teacher, with all services and a real model server in every role."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from services.__main__ import ServiceName, registers
from synthagent.api.v1 import task_pb2
from synthagent.client import SynthAgentClient
from synthagent.errors import BackendUnavailable, LimitExceeded
from synthagent.server import running
from synthagent.settings import load_settings
from synthagent.worlds.certificate import verify
from synthagent.worlds.spec import Gate, GateStatus, Split, Task
from tests.services.task_synthesis.model_company import ROLES, Company, company

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEPS = len(("tool_set", "tool_check", "distractors", "fuzzy_task", "leak_check", "rubric", "keep"))
"""Calls of the teacher that an item takes where all goes well."""

FAULTS = {"fish_market": "tool_set", "farm_machinery": "tool_fault"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def models() -> AsyncIterator[Company]:
    """The company of all tests of this module, which leave it as it was."""
    async with company(faults=FAULTS) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(
    models: Company, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SynthAgentClient]:
    """All services on one database, with the company in every role."""
    settings = load_settings(
        database_url=f"sqlite:///{tmp_path_factory.mktemp('models') / 'synthagent.db'}",
        port=0,
        metrics_port=None,
        drain_seconds=0.1,
        judge_votes=1,
        **{role: models.role(role) for role in ROLES},
    )
    async with running(settings, registers(ServiceName.ALL)) as server:
        yield server.resources.client


def teacher(**options: Any) -> task_pb2.ModelTeacher:
    return task_pb2.ModelTeacher(**{"attempts": 2, "min_solutions": 1, "repairs": 0, **options})


async def synthesize(
    client: SynthAgentClient, request_id: str, count: int, **options: Any
) -> tuple[list[Task], task_pb2.SynthesisProgress]:
    tasks: list[Task] = []
    item: Task | task_pb2.SynthesisProgress | None = None
    options = {"split": Split.TRAIN, "model": teacher(), **options}
    async for item in client.synthesize_tasks(request_id, count, **options):
        if isinstance(item, Task):
            tasks.append(item)
    assert isinstance(item, task_pb2.SynthesisProgress), "the last message is progress"
    return tasks, item


async def items_of(client: SynthAgentClient, request_id: str) -> list[task_pb2.SynthesisItem]:
    return [item async for item in client.list_synthesis_items(request_id)]


def only(*domains: str) -> dict[str, Any]:
    """Even weights on these domains."""
    return {
        "routes": [
            task_pb2.RouteWeight(dimension="domain", value=domain, weight=1.0) for domain in domains
        ]
    }


async def test_from_persona_to_certified_task(client: SynthAgentClient, models: Company) -> None:
    domains = ["dance_studio", "payroll", "street_market"]
    tasks, progress = await synthesize(client, "whole", 3, domains=domains)
    assert sorted(task.domain for task in tasks) == domains
    for task in tasks:
        verify(task)
        assert task.certificate is not None
        status = {result.gate: result.status for result in task.certificate.gates}
        assert status[Gate.COMPILES] is status[Gate.NOVELTY] is GateStatus.PASSED
        assert status[Gate.GOLD] is GateStatus.NOT_APPLICABLE
        assert await client.get_task(task.task_id) == task
        assert [entry async for entry in client.list_ledger_entries(task.task_id)]
    listed = {each.task_id: each.teacher async for each in client.list_tasks()}
    assert {listed[task.task_id] for task in tasks} == {tasks[0].teacher}
    assert not any(task_id.endswith("draft") for task_id in listed), "a draft is never listed"

    assert (progress.requested, progress.admitted, progress.attempted) == (3, 3, 3)
    calls = progress.usage.calls
    assert calls == len(models.asked), "what anyone asked for it, in whatever role"
    assert calls > 3 * (STEPS + 2 * 3), "two attempts of three turns each"
    assert progress.usage.prompt_tokens == 100 * calls
    assert progress.usage.cost == pytest.approx(calls * (100 * 1.0 + 10 * 2.0) / 1e6)

    items = await items_of(client, "whole")
    assert [item.task_id for item in items] == [task.task_id for task in tasks]
    assert [item.route["domain"] for item in items] == [task.domain for task in tasks]
    assert [item.route["difficulty"] for item in items] == [task.difficulty for task in tasks]
    assert sum(item.usage.calls for item in items) == calls
    synthesis = await client.get_synthesis("whole")
    assert synthesis.progress == progress
    assert 0 < progress.route_distance < 1
    assert getattr(synthesis, "yield") == 1.0
    assert synthesis.tokens_per_admitted == 110 * calls / 3
    assert sum(share.attempted for share in synthesis.routes) == 3 * 5

    asked = len(models.asked)
    again, repeated = await synthesize(client, "whole", 3, domains=domains)
    assert again == tasks
    assert repeated == progress
    assert len(models.asked) == asked, "a finished request asks no model"


async def test_what_comes_to_nothing_is_kept_with_its_reason(client: SynthAgentClient) -> None:
    wanted = teacher(**only("fish_market", "farm_machinery", "dance_studio"), items_per_task=6)
    tasks, progress = await synthesize(client, "some-fail", 2, model=wanted, seed=2)
    assert [task.domain for task in tasks] == ["dance_studio"] * 2
    rejected = [item for item in await items_of(client, "some-fail") if not item.task_id]
    assert len(rejected) == progress.attempted - 2 == sum(progress.rejected_by_gate.values())
    by_domain = {item.route["domain"]: item for item in rejected}
    assert by_domain["fish_market"].rejected_by == "tool_check"
    assert "nobody" in by_domain["fish_market"].reason
    assert by_domain["farm_machinery"].rejected_by == "model_fault"
    assert "MODEL_MALFORMED" in by_domain["farm_machinery"].reason
    assert all(item.usage.calls > 0 and item.reason for item in rejected)
    stored = await client.get_synthesis("some-fail")
    assert stored.progress.rejected_by_gate == progress.rejected_by_gate
    shares = {each.value: each for each in stored.routes if each.dimension == "domain"}
    assert shares["dance_studio"].admitted == 1.0
    assert shares["fish_market"].target == pytest.approx(1 / 3)
    assert shares["fish_market"].attempted >= 1


async def test_a_hopeless_request_ends_with_what_to_do(
    client: SynthAgentClient, models: Company
) -> None:
    wanted = teacher(**only("fish_market"), items_per_task=3)
    before = models.count("teacher", "tool_set")
    for _ in range(2):  # the second time from the rows
        with pytest.raises(LimitExceeded, match=r"Only 0 of 2 tasks .* in 6 items") as caught:
            await synthesize(client, "hopeless", 2, model=wanted, seed=3)
        assert "items_per_task" in caught.value.message
    assert models.count("teacher", "tool_set") == before + 6


async def test_the_teachers_last_question_decides(
    client: SynthAgentClient, models: Company
) -> None:
    models.discards = True
    begun = len(models.asked)
    with pytest.raises(LimitExceeded):
        await synthesize(client, "discarded", 1, model=teacher(items_per_task=1), seed=4)
    models.discards = False
    (item,) = await items_of(client, "discarded")
    assert (item.rejected_by, item.reason) == ("discarded", "It is clear.")
    assert item.usage.calls == len(models.asked) - begun > STEPS


@pytest.mark.parametrize("role", ["teacher", "tool", "judge"])
async def test_an_outage_rejects_nothing_and_a_repeat_goes_on(
    client: SynthAgentClient, models: Company, role: str
) -> None:
    name = f"no-{role}"
    begun = models.count("teacher", "tool_set")
    models.down.add(role)
    with pytest.raises(BackendUnavailable):
        await synthesize(client, name, 1, seed=50 + len(name))
    assert await items_of(client, name) == []
    models.down.clear()
    tasks, progress = await synthesize(client, name, 1, seed=50 + len(name))
    assert len(tasks) == progress.attempted == len(await items_of(client, name)) == 1
    again = models.count("teacher", "tool_set") - begun
    assert again == 1, "what was answered is not asked again"


async def test_calls_with_one_request_id_at_once_give_the_same(
    client: SynthAgentClient, models: Company
) -> None:
    begun = models.count("teacher", "tool_set")
    results = await asyncio.gather(*(synthesize(client, "at-once", 2, seed=6) for _ in range(3)))
    assert all(tasks == results[0][0] for tasks, _ in results)
    assert models.count("teacher", "tool_set") == begun + 2


async def test_worlds_that_the_model_writes_pass_every_gate(
    client: SynthAgentClient, models: Company
) -> None:
    begun = models.count("teacher", "attempt")
    sql = teacher(tool_kind=task_pb2.TOOL_KIND_SQL)
    (task,), _ = await synthesize(client, "sql", 1, model=sql, seed=7)
    assert task.certificate is not None
    assert {result.status for result in task.certificate.gates} == {GateStatus.PASSED}
    assert models.count("teacher", "attempt") == begun, "its gold plans were executed instead"


async def test_near_duplicates_are_refused(client: SynthAgentClient) -> None:
    """The company writes the same world for everybody."""
    sql = teacher(tool_kind=task_pb2.TOOL_KIND_SQL, items_per_task=2)
    with pytest.raises(LimitExceeded):
        await synthesize(client, "same", 2, model=sql, seed=8)
    first, *others = await items_of(client, "same")
    assert first.task_id
    assert {item.rejected_by for item in others} == {"novelty"}
    assert all(first.task_id in item.reason for item in others)


async def test_personas_come_from_the_set(client: SynthAgentClient) -> None:
    described = ["Keeps the tide tables of an island.", "Paints signs for a fairground."]
    given = [task_pb2.Persona(description=text) for text in described]
    await client.import_personas("two", "mine", given)
    tasks, _ = await synthesize(client, "own", 2, model=teacher(persona_set="mine"), seed=9)
    assert {task.persona.description for task in tasks} == set(described)
    assert {item.route["persona"] for item in await items_of(client, "own")} == {"any"}


async def test_a_task_of_the_model_can_be_imported_again(client: SynthAgentClient) -> None:
    """Its draft, which says the same, is no task that it could be a near-duplicate of."""
    (task,), _ = await synthesize(client, "exported", 1, domains=["rail_freight"])
    response = await client.import_tasks("imported", [task])
    assert list(response.task_ids) == [task.task_id]
