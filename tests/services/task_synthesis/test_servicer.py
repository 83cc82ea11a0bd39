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
    PreconditionFailed,
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
    [
        ("observatory", Split.TRAIN, "held_out"),
        ("ice_rink", Split.TRAIN, "held_out"),
        ("court_booking", Split.HELD_OUT, "train"),
    ],
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


async def test_what_became_of_a_synthesis_is_a_query(client: SynthAgentClient) -> None:
    tasks, progress = await synthesize(client, "asked-after", 3, seed=21)
    synthesis = await client.get_synthesis("asked-after")
    assert synthesis.progress == progress
    assert getattr(synthesis, "yield") == 3 / progress.attempted
    assert synthesis.tokens_per_admitted == synthesis.cost_per_admitted == 0
    assert not synthesis.routes
    items = [item async for item in client.list_synthesis_items("asked-after")]
    assert [item.task_id for item in items if item.task_id] == [task.task_id for task in tasks]
    assert [item.attempt for item in items] == list(range(progress.attempted))
    assert all(bool(item.reason) == bool(item.rejected_by) != bool(item.task_id) for item in items)
    request = task_pb2.ListSynthesisItemsRequest(request_id="asked-after", page_size=2)
    first = await client._unary(client._tasks.ListSynthesisItems, request)
    assert list(first.items) == items[:2]
    request.page_token = first.next_page_token
    second = await client._unary(client._tasks.ListSynthesisItems, request)
    assert list(second.items) == items[2:4]
    request.page_token = "x"
    with pytest.raises(InvalidInput, match="page_token"):
        await client._unary(client._tasks.ListSynthesisItems, request)


async def test_a_synthesis_that_never_was(client: SynthAgentClient) -> None:
    with pytest.raises(NotFound, match="never-was"):
        await client.get_synthesis("never-was")
    with pytest.raises(NotFound, match="never-was"):
        [item async for item in client.list_synthesis_items("never-was")]


MODEL = task_pb2.TEACHER_MODEL


def weights(*given: tuple[str, str, float]) -> task_pb2.ModelTeacher:
    return task_pb2.ModelTeacher(
        routes=[task_pb2.RouteWeight(dimension=d, value=v, weight=w) for d, v, w in given]
    )


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"model": task_pb2.ModelTeacher()}, "model", "TEACHER_MODEL"),
        ({"teacher": 9}, "teacher", "unknown number 9"),
        ({"model": task_pb2.ModelTeacher(attempts=17)}, "model.attempts", "1 to 16"),
        (
            {"model": task_pb2.ModelTeacher(attempts=2, min_solutions=3)},
            "model.min_solutions",
            "only 2 attempts",
        ),
        ({"model": task_pb2.ModelTeacher(min_solutions=17)}, "model.min_solutions", "1 to 16"),
        ({"model": task_pb2.ModelTeacher(repairs=9)}, "model.repairs", "0 to 8"),
        ({"model": task_pb2.ModelTeacher(items_per_task=101)}, "model.items_per_task", "1 to 100"),
        ({"model": task_pb2.ModelTeacher(tool_kind=7)}, "model.tool_kind", "TOOL_KIND_SQL"),  # type: ignore[arg-type]  # a number of a newer contract
        (
            {"model": task_pb2.ModelTeacher(persona_set="generatd")},
            "model.persona_set",
            "did you mean 'generated'",
        ),
        (
            {"model": weights(("lenght", "short", 1))},
            "model.routes[0].dimension",
            "did you mean 'length'",
        ),
        (
            {"model": weights(("length", "short", 1), ("tool_family", "bookin", 1))},
            "model.routes[1].value",
            "did you mean 'booking'",
        ),
        ({"model": weights(("length", "short", -1))}, "model.routes[0].weight", "at least 0"),
        ({"teacher": MODEL, "domains": ["ice_rink"]}, "domains[0]", "split held_out"),
        ({"teacher": MODEL, "domains": ["payrol"]}, "domains[0]", "did you mean 'payroll'"),
        ({"teacher": MODEL, "difficulty": "hart"}, "difficulty", "did you mean 'hard'"),
    ],
)
async def test_orders_for_a_model_that_are_refused(
    client: SynthAgentClient, fields: dict[str, Any], field: str, words: str
) -> None:
    program = field == "model"
    request = task_pb2.SynthesizeTasksRequest(
        request_id="refused",
        count=1,
        split=task_pb2.SPLIT_TRAIN,
        **{"teacher": task_pb2.TEACHER_PROGRAM if program else MODEL, **fields},
    )
    with pytest.raises(InvalidInput, match=words) as caught:
        async for _ in client._stream(client._tasks.SynthesizeTasks, request):
            pass
    assert caught.value.field == field


async def test_without_a_model_the_caller_is_told_what_to_set(client: SynthAgentClient) -> None:
    with pytest.raises(PreconditionFailed, match="SYNTHAGENT_TEACHER__BASE_URL"):
        await synthesize(client, "no-model", 1, model=task_pb2.ModelTeacher())


async def test_personas_are_imported_once_and_listed(client: SynthAgentClient) -> None:
    given = [
        task_pb2.Persona(description="Mends nets by lamplight."),
        task_pb2.Persona(name="Ada Holm", role="moss grower", description="Grows moss."),
        task_pb2.Persona(description="Mends nets by lamplight."),
    ]
    response = await client.import_personas("first", "coast-1", given)
    assert (response.stored, response.duplicates, response.total) == (2, 1, 2)
    assert await client.import_personas("first", "coast-1", given) == response
    again = await client.import_personas("second", "coast-1", given[:1])
    assert (again.stored, again.duplicates, again.total) == (0, 1, 2)
    with pytest.raises(RequestIdReused):
        await client.import_personas("first", "coast-2", given)
    listed = [persona async for persona in client.list_personas("coast-1")]
    assert [each.description for each in listed] == [given[0].description, given[1].description]
    assert (listed[1].name, listed[1].role) == ("Ada Holm", "moss grower")


async def test_our_own_personas_are_listed_in_pages(client: SynthAgentClient) -> None:
    request = task_pb2.ListPersonasRequest(persona_set="generated", page_size=3)
    first = await client._unary(client._tasks.ListPersonas, request)
    assert first.total >= 10_000
    request.page_token = first.next_page_token
    second = await client._unary(client._tasks.ListPersonas, request)
    assert len({each.description for page in (first, second) for each in page.personas}) == 6
    request.page_token = str(first.total - 1)
    last = await client._unary(client._tasks.ListPersonas, request)
    assert len(last.personas) == 1
    assert last.next_page_token == ""


@pytest.mark.parametrize(
    ("persona_set", "personas", "field", "words"),
    [
        ("generated", 1, "persona_set", "ours"),
        ("Coast", 1, "persona_set", "lower-case"),
        ("", 1, "persona_set", "lower-case"),
        ("c" * 49, 1, "persona_set", "1 to 48"),
        ("coast", 0, "personas", "1 to 1000"),
        ("coast", 1001, "personas", "1 to 1000"),
    ],
)
async def test_imports_of_personas_that_are_refused(
    client: SynthAgentClient, persona_set: str, personas: int, field: str, words: str
) -> None:
    given = [task_pb2.Persona(description="Mends nets.")] * personas
    with pytest.raises(InvalidInput, match=words) as caught:
        await client.import_personas("refused", persona_set, given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("persona", "field"),
    [
        (task_pb2.Persona(name="Ada Holm", description=" "), "personas[1].description"),
        (task_pb2.Persona(description="Grows moss.", voice="No Name"), "personas[1].voice"),
    ],
)
async def test_a_persona_that_is_refused_is_named(
    client: SynthAgentClient, persona: task_pb2.Persona, field: str
) -> None:
    good = task_pb2.Persona(description="Mends nets.")
    with pytest.raises(InvalidInput) as caught:
        await client.import_personas("refused", "coast-3", [good, persona])
    assert caught.value.field == field
    with pytest.raises(NotFound, match="coast-3"):
        [each async for each in client.list_personas("coast-3")]
