"""Determinism, resumption, rejection and the limit of attempts, with real workers and stores."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from services.task_synthesis import journal
from services.task_synthesis.examine import Drawing, examine
from services.task_synthesis.progress import Progress
from services.task_synthesis.synthesize import ATTEMPTS_PER_TASK, Order, Synthesizer
from services.task_synthesis.workers import Workers
from synthagent.errors import LimitExceeded, PreconditionFailed
from synthagent.metrics import ServerMetrics
from synthagent.store import Store
from synthagent.worlds.certificate import verify
from synthagent.worlds.spec import Split, Task
from tests.services.task_synthesis.conftest import OpenStore

pytestmark = pytest.mark.asyncio(loop_scope="module")

DRAWING = Drawing(Split.TRAIN, "mini", None, seed=11)


def order(count: int, request_id: str = "one") -> Order:
    return Order(request_id, count, DRAWING)


async def gather(
    items: AsyncIterator[Task | Progress],
    tasks: list[Task] | None = None,
    progress: list[Progress] | None = None,
) -> tuple[list[Task], list[Progress]]:
    """What a request gives; into the given lists where it may end in an error."""
    tasks = [] if tasks is None else tasks
    progress = [] if progress is None else progress
    async for item in items:
        if isinstance(item, Task):
            tasks.append(item)
        else:
            progress.append(item)
    assert isinstance(item, Progress), "the last item is progress"
    return tasks, progress


def synthesizer(store: Store, workers: Workers, items: Path | None = None) -> Synthesizer:
    return Synthesizer(store, workers, ServerMetrics(), items)


def written(tasks: list[Task]) -> list[str]:
    return [task.model_dump_json() for task in tasks]


async def test_the_same_seed_gives_the_same_bytes(workers: Workers, open_store: OpenStore) -> None:
    """In another database, with another number of workers, and whatever was stored before."""
    async with open_store("first") as store:
        first, progress = await gather(synthesizer(store, workers).run(order(6)))
    async with open_store("second") as store:
        other = Drawing(Split.TRAIN, "mini", None, seed=12)
        await gather(synthesizer(store, workers).run(Order("other", 2, other)))
        alone = Workers(1)
        second, _ = await gather(synthesizer(store, alone).run(order(6)))
        await alone.close()
    assert written(first) == written(second)
    for task in first:
        verify(task)
    assert len({task.task_id for task in first}) == progress[-1].admitted == 6


async def test_a_longer_order_begins_with_the_shorter_one(
    workers: Workers, open_store: OpenStore
) -> None:
    async with open_store("any") as store:
        made = synthesizer(store, workers)
        short, _ = await gather(made.run(order(3, "short")))
        long, _ = await gather(made.run(order(6, "long")))
    assert written(long)[:3] == written(short)


async def test_a_cut_request_goes_on_where_it_was_cut(
    workers: Workers, open_store: OpenStore
) -> None:
    async with open_store("whole") as store:
        whole, total = await gather(synthesizer(store, workers).run(order(7)))
    async with open_store("cut") as store:
        items = synthesizer(store, workers).run(order(7))
        seen = 0
        async for item in items:
            seen += isinstance(item, Task)
            if seen == 3:
                break
        await items.aclose()
        before = await store.read(lambda c: journal.load(c, "one"))
        again, progress = await gather(synthesizer(store, workers).run(order(7)))
        after = await store.read(lambda c: journal.load(c, "one"))
    assert written(again) == written(whole)
    assert progress[-1] == total[-1]
    assert after[: len(before)] == before
    assert [attempt.number for attempt in after] == list(range(len(after)))


async def test_a_finished_request_is_streamed_from_the_store(open_store: OpenStore) -> None:
    """A closed pool proves that nothing is composed again."""
    workers = Workers(1)
    async with open_store("any") as store:
        made = synthesizer(store, workers)
        first, _ = await gather(made.run(order(2)))
        await workers.close()
        again, progress = await gather(made.run(order(2)))
    assert written(again) == written(first)
    assert len(progress) == 1


async def test_near_duplicates_of_evaluation_items_are_refused_until_attempts_run_out(
    workers: Workers, open_store: OpenStore, tmp_path: Path
) -> None:
    items = tmp_path / "items.jsonl"
    attempts = ATTEMPTS_PER_TASK
    gates = Counter[str]()
    with items.open("wb") as file:
        for each in examine(DRAWING, range(attempts)):
            gates[each.gate or "novelty"] += 1
            if each.task is not None:
                task = Task.model_validate_json(each.task)
                facts = " ".join(f"{fact.label} {fact.spoken}" for fact in task.facts)
                text = f"{task.instruction} {facts}"
                file.write(orjson.dumps({"id": f"item-{each.attempt}", "text": text}) + b"\n")
    async with open_store("any") as store:
        made = synthesizer(store, workers, items)
        for _ in range(2):  # the second time from the store
            tasks: list[Task] = []
            progress: list[Progress] = []
            with pytest.raises(LimitExceeded, match="Only 0 of 1 tasks") as caught:
                await gather(made.run(order(1)), tasks, progress)
            assert caught.value.metadata["attempted"] == str(attempts)
            assert tasks == []
            assert progress[-1].rejected_by_gate == gates
        stored = await store.read(lambda c: journal.load(c, "one"))
    assert len(stored) == attempts
    assert gates["novelty"] > attempts / 2
    assert all("evaluation item" in each.reason for each in stored if each.gate == "novelty")
    assert [each.seed for each in stored] == [DRAWING.attempt_seed(n) for n in range(attempts)]


async def test_evaluation_items_that_cannot_be_read(
    workers: Workers, open_store: OpenStore, tmp_path: Path
) -> None:
    async with open_store("any") as store:
        made = synthesizer(store, workers, tmp_path / "missing.jsonl")
        with pytest.raises(PreconditionFailed, match="SYNTHAGENT_EVALUATION_ITEMS"):
            await gather(made.run(order(1)))


async def test_seeds_of_neighbouring_requests_share_nothing() -> None:
    seeds = [
        Drawing(Split.TRAIN, "mini", None, seed).attempt_seed(attempt)
        for seed in range(20)
        for attempt in range(20)
    ]
    assert len(set(seeds)) == 400
    assert all(0 <= seed < 2**64 for seed in seeds)
