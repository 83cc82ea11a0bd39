import asyncio
from functools import partial

import pytest
from sqlalchemy import text

from synthagent.errors import Conflict, Corrupt, InvalidInput, NotFound, Uncertified
from synthagent.store import Store, TaskCache, tasks
from synthagent.worlds.certify import certify
from synthagent.worlds.spec import Split, Task
from tests.example_task import example_task


@pytest.fixture(scope="module")
def certified() -> Task:
    task = example_task()
    certificate = certify(task)
    assert certificate.passed, certificate
    return task.model_copy(update={"certificate": certificate})


def renamed(task: Task, task_id: str, **changes: object) -> Task:
    return task.model_copy(update={"task_id": task_id, **changes})


async def test_a_task_is_kept_as_it_is(store: Store, certified: Task) -> None:
    assert await store.write(lambda c: tasks.put(c, certified)) is True
    assert await store.write(lambda c: tasks.put(c, certified)) is False
    assert await store.read(lambda c: tasks.get(c, certified.task_id)) == certified


async def test_a_task_stored_again_brings_its_new_certificate(
    store: Store, certified: Task
) -> None:
    assert certified.certificate is not None
    old = certified.certificate.model_copy(update={"engine_version": "0"})
    await store.write(lambda c: tasks.put(c, certified.model_copy(update={"certificate": old})))
    await store.write(lambda c: tasks.put(c, certified))
    assert await store.read(lambda c: tasks.get(c, certified.task_id)) == certified


async def test_an_admitted_task_stays_as_it_is_when_it_comes_again_as_a_draft(
    store: Store, certified: Task
) -> None:
    assert certified.certificate is not None
    fewer = certified.certificate.model_copy(update={"gates": certified.certificate.gates[:-1]})
    draft = certified.model_copy(update={"certificate": fewer})
    await store.write(lambda c: tasks.put(c, draft, draft=True))
    await store.write(lambda c: tasks.put(c, certified))
    assert await store.write(lambda c: tasks.put(c, draft, draft=True)) is False
    assert await store.read(lambda c: tasks.get(c, certified.task_id)) == certified
    assert [task.task_id for task in (await store.read(tasks.list_page)).tasks] == [draft.task_id]


async def test_an_identifier_is_taken_once(store: Store, certified: Task) -> None:
    await store.write(lambda c: tasks.put(c, certified))
    other = certified.model_copy(update={"instruction": "Something else."})
    with pytest.raises(Conflict, match="taken by another task"):
        await store.write(lambda c: tasks.put(c, other))
    assert await store.read(lambda c: tasks.get(c, certified.task_id)) == certified


async def test_a_task_that_is_not_there(store: Store) -> None:
    with pytest.raises(NotFound, match="synthesize or import"):
        await store.read(lambda c: tasks.get(c, "nowhere"))


async def test_pages_follow_the_order_of_admission(store: Store, certified: Task) -> None:
    ids = [f"task-{number}" for number in (3, 1, 2, 5, 4)]
    for task_id in ids:
        await store.write(partial(tasks.put, task=renamed(certified, task_id)))
    seen: list[str] = []
    token, pages = "", 0
    while True:
        page = await store.read(partial(tasks.list_page, page_size=2, page_token=token))
        seen += [summary.task_id for summary in page.tasks]
        pages += 1
        token = page.next_page_token
        if not token:
            break
    assert seen == ids
    assert pages == 3


async def test_a_listing_filters_and_counts(store: Store, certified: Task) -> None:
    held_out = renamed(certified, "other", split=Split.HELD_OUT, domain="hotel")
    await store.write(lambda c: tasks.put(c, certified))
    await store.write(lambda c: tasks.put(c, held_out))
    page = await store.read(lambda c: tasks.list_page(c, split=Split.HELD_OUT, domain="hotel"))
    (summary,) = page.tasks
    assert summary.task_id == "other"
    assert (summary.tool_count, summary.fact_count, summary.gold_step_count) == (4, 2, 3)
    nothing = await store.read(lambda c: tasks.list_page(c, difficulty="hard"))
    assert nothing.tasks == ()


@pytest.mark.parametrize("token", ["x", "-1", "\uff11", "9" * 30])
async def test_a_foreign_page_token_is_refused(store: Store, token: str) -> None:
    with pytest.raises(InvalidInput, match="page_token"):
        await store.read(lambda c: tasks.list_page(c, page_token=token))


async def test_the_cache_gives_one_image_to_all(store: Store, certified: Task) -> None:
    await store.write(lambda c: tasks.put(c, certified))
    cache = TaskCache(store)
    given = await asyncio.gather(*(cache.get_certified(certified.task_id) for _ in range(8)))
    task, image = given[0]
    assert task == certified
    assert all(other is image for _, other in given)
    session = image.open()
    assert session.call("find_courts", '{"court_type": "clay"}').ok
    session.close()


async def test_the_cache_forgets_the_least_recently_used(store: Store, certified: Task) -> None:
    for task_id in ("a", "b", "c"):
        # The identifier is part of what a certificate covers.
        task = renamed(certified, task_id, certificate=None)
        task = task.model_copy(update={"certificate": certify(task)})
        await store.write(partial(tasks.put, task=task))
    cache = TaskCache(store, size=2)
    _, first = await cache.get_certified("a")
    await cache.get_certified("b")
    await cache.get_certified("a")
    await cache.get_certified("c")
    assert (await cache.get_certified("a"))[1] is first
    _, second = await cache.get_certified("b")
    assert second is (await cache.get_certified("b"))[1]


async def test_nothing_uncertified_is_handed_out(store: Store, certified: Task) -> None:
    assert certified.certificate is not None
    wrong = certified.certificate.model_copy(update={"engine_version": "0"})
    for task in (
        renamed(certified, "none", certificate=None),
        renamed(certified, "old", certificate=wrong),
        renamed(certified, "changed", instruction="Something else."),
    ):
        await store.write(partial(tasks.put, task=task))
        with pytest.raises(Uncertified, match="Import it again"):
            await TaskCache(store).get_certified(task.task_id)


async def test_a_failed_load_is_tried_again(store: Store, certified: Task) -> None:
    cache = TaskCache(store)
    with pytest.raises(NotFound):
        await cache.get_certified(certified.task_id)
    await store.write(lambda c: tasks.put(c, certified))
    assert (await cache.get_certified(certified.task_id))[0] == certified


async def test_a_damaged_row_is_corrupt(store: Store, certified: Task) -> None:
    await store.write(lambda c: tasks.put(c, certified))
    await store.write(lambda c: c.execute(text("UPDATE task SET body = substr(body, 9)")) and None)
    with pytest.raises(Corrupt, match="damaged"):
        await store.read(lambda c: tasks.get(c, certified.task_id))
