"""TaskSynthesis at a real server: synthesis, import, listing, and every refusal."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from services.task_synthesis.servicer import register
from synthagent.api.v1 import task_pb2
from synthagent.client import SynthAgentClient
from synthagent.convert import task_to_proto
from synthagent.errors import (
    InvalidInput,
    NotFound,
    RequestIdReused,
)
from synthagent.server import Running, running
from synthagent.settings import load_settings
from synthagent.worlds.certificate import verify
from synthagent.worlds.compose import domains
from synthagent.worlds.spec import Split, Task
from tests.example_task import example_task
from tests.synthagent.worlds.changed import changed

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    url = f"sqlite:///{tmp_path_factory.mktemp('synthesis') / 'synthagent.db'}"
    settings = load_settings(database_url=url, port=0, metrics_port=None, drain_seconds=1.0)
    async with running(settings, [register]) as opened:
        yield opened


@pytest.fixture
def client(server: Running) -> SynthAgentClient:
    return server.resources.client


async def synthesize(
    client: SynthAgentClient, request_id: str, count: int, **options: Any
) -> tuple[list[Task], task_pb2.SynthesisProgress]:
    tasks: list[Task] = []
    item: Task | task_pb2.SynthesisProgress | None = None
    options = {"difficulty": "mini", "split": Split.TRAIN, **options}
    async for item in client.synthesize_tasks(request_id, count, **options):
        if isinstance(item, Task):
            tasks.append(item)
    assert isinstance(item, task_pb2.SynthesisProgress), "the last message is progress"
    return tasks, item


async def test_tasks_are_streamed_stored_and_listed(client: SynthAgentClient) -> None:
    domain = domains("held_out")[0]
    options: dict[str, Any] = {"split": Split.HELD_OUT, "seed": 2**64 - 1, "domains": [domain]}
    tasks, progress = await synthesize(client, "stored", 4, **options)
    assert (progress.requested, progress.admitted) == (4, 4)
    assert progress.attempted == 4 + sum(progress.rejected_by_gate.values())
    for task in tasks:
        verify(task)
        assert (task.split, task.domain, task.difficulty) == (Split.HELD_OUT, domain, "mini")
        assert await client.get_task(task.task_id) == task
    listed = [each async for each in client.list_tasks(split=Split.HELD_OUT, domain=domain)]
    assert [each.task_id for each in listed] == [task.task_id for task in tasks]
    assert [each.tool_count for each in listed] == [len(task.world.tools) for task in tasks]
    again, repeated = await synthesize(client, "stored", 4, **options)
    assert again == tasks
    assert repeated == progress
    with pytest.raises(RequestIdReused):
        await synthesize(client, "stored", 5, **options)


async def test_calls_with_one_request_id_at_once_give_the_same(client: SynthAgentClient) -> None:
    results = await asyncio.gather(*(synthesize(client, "at-once", 3, seed=5) for _ in range(3)))
    assert all(tasks == results[0][0] for tasks, _ in results)


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"count": 0}, "count", "give 1 to 100000"),
        ({"count": 100_001}, "count", "give 1 to 100000"),
        ({"difficulty": "mimi"}, "difficulty", "did you mean 'mini'"),
        ({"domains": ["bakerry"]}, "domains[0]", "did you mean 'bakery'"),
        ({"domains": ["bakery", "observatory"]}, "domains[1]", "belongs to the split held_out"),
        ({"split": None}, "split", "SPLIT_TRAIN"),
        ({"request_id": "x" * 65}, "request_id", "65 characters"),
        ({"request_id": ""}, "request_id", "0 characters"),
    ],
)
async def test_orders_that_are_refused(
    client: SynthAgentClient, options: dict[str, Any], field: str, words: str
) -> None:
    options = {"request_id": "refused", "count": 1, **options}
    with pytest.raises(InvalidInput, match=words.replace("[", r"\[")) as caught:
        await synthesize(client, options.pop("request_id"), options.pop("count"), **options)
    assert caught.value.field == field


async def test_unknown_task_and_foreign_page_token(
    client: SynthAgentClient, server: Running
) -> None:
    with pytest.raises(NotFound, match="nobody-knows"):
        await client.get_task("nobody-knows")
    for request, field in (
        (task_pb2.ListTasksRequest(page_token="x"), "page_token"),
        (task_pb2.ListTasksRequest(page_size=1001), "page_size"),
    ):
        with pytest.raises(InvalidInput) as caught:
            await client._unary(client._tasks.ListTasks, request)
        assert caught.value.field == field


async def test_pages_hold_every_task_once(client: SynthAgentClient) -> None:
    await synthesize(client, "paged", 5, seed=77)
    everything = [each.task_id async for each in client.list_tasks()]
    found: list[str] = []
    request = task_pb2.ListTasksRequest(page_size=2)
    while True:
        page = await client._unary(client._tasks.ListTasks, request)
        assert 1 <= len(page.tasks) <= 2
        found.extend(each.task_id for each in page.tasks)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == everything
    assert len(set(found)) == len(found) >= 5


def renamed(task_id: str) -> Task:
    return example_task().model_copy(update={"task_id": task_id})


def without_gold_booking(data: dict[str, Any]) -> None:
    data["task_id"] = "gold-fails"
    data["gold_plans"][0]["steps"].pop()
    data["gold_plans"][0]["answer"] = "Done."


async def test_good_tasks_are_imported_and_bad_ones_told(client: SynthAgentClient) -> None:
    malformed = task_to_proto(renamed("malformed"))
    malformed.facts[0].value_json = "{"
    lying = task_to_proto(example_task())
    lying.certificate.task_digest = "0" * 64  # ignored: every task is certified anew
    request = task_pb2.ImportTasksRequest(
        request_id="import",
        tasks=[
            malformed,
            lying,
            task_to_proto(changed(without_gold_booking)),
            task_to_proto(renamed("near-duplicate")),
            task_pb2.Task(),
        ],
    )
    response = await client._unary(client._tasks.ImportTasks, request, 60.0)
    assert list(response.task_ids) == ["example-court-booking"]
    told = [(each.index, each.task_id, each.gate) for each in response.rejected]
    assert told == [
        (0, "malformed", task_pb2.GATE_UNSPECIFIED),
        (2, "gold-fails", task_pb2.GATE_GOLD),
        (3, "near-duplicate", task_pb2.GATE_NOVELTY),
        (4, "", task_pb2.GATE_UNSPECIFIED),
    ]
    assert "tasks[0].facts[0].value_json" in response.rejected[0].reason
    assert all(each.reason for each in response.rejected)
    verify(await client.get_task("example-court-booking"))
    with pytest.raises(NotFound):
        await client.get_task("gold-fails")
    assert await client._unary(client._tasks.ImportTasks, request, 60.0) == response


async def test_an_identifier_belongs_to_one_content(client: SynthAgentClient) -> None:
    await client.import_tasks("before", [example_task()])
    same = await client.import_tasks("same", [example_task(), example_task()])
    assert list(same.task_ids) == ["example-court-booking"] * 2

    def other(data: dict[str, Any]) -> None:
        data["persona"]["name"] = "Someone Else"

    refused = await client.import_tasks("other", [changed(other)])
    assert refused.rejected[0].gate == task_pb2.GATE_UNSPECIFIED
    assert "taken" in refused.rejected[0].reason
    assert (await client.get_task("example-court-booking")).persona.name == "Mara Lindqvist"
    with pytest.raises(RequestIdReused):
        await client.import_tasks("other", [example_task()])


@pytest.mark.parametrize(
    ("domain", "split", "owner"),
    [("observatory", Split.TRAIN, "held_out"), ("court_booking", Split.HELD_OUT, "train")],
)
async def test_a_domain_belongs_to_one_split(
    domain: str, split: Split, owner: str, client: SynthAgentClient
) -> None:
    await client.import_tasks("before", [example_task()])  # it brings court_booking into train
    name = f"moved-{domain.replace('_', '-')}"
    moved = example_task().model_copy(update={"task_id": name, "domain": domain, "split": split})
    refused = await client.import_tasks(name, [moved])
    assert refused.rejected[0].gate == task_pb2.GATE_UNSPECIFIED
    assert f"{domain!r} belongs to the split {owner}" in refused.rejected[0].reason


async def test_imports_have_a_size(client: SynthAgentClient) -> None:
    with pytest.raises(InvalidInput, match="give 1 to 1000"):
        await client.import_tasks("empty", [])


async def test_what_happened_is_counted(client: SynthAgentClient, server: Running) -> None:
    count = server.resources.metrics.registry.get_sample_value
    before = count("synthagent_tasks_admitted_total", {"split": "train"}) or 0.0
    await synthesize(client, "counted", 2, seed=99)
    assert count("synthagent_tasks_admitted_total", {"split": "train"}) == before + 2
    await client.import_tasks("counted", [changed(without_gold_booking)])
    assert (count("synthagent_tasks_rejected_total", {"gate": "gold"}) or 0.0) >= 1
