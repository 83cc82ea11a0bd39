"""Makes the certified tasks of one request, in order, and goes on where it was cut.

Attempt k of a request is composed from a seed that follows from (request seed, k). Workers examine
attempts in any order; they are settled (novelty gate, storage) in the order of k. Task k of a
request therefore depends on its seed, split, difficulty and domains, on the data files, the engine
and the evaluation items, and on nothing else: not on time, workers, crashes, or other requests.
That is why the novelty gate compares with the tasks of the same request and the evaluation items
only. A task that another request has stored already is the same task, byte for byte, and is stored
once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.task_synthesis import journal
from services.task_synthesis.admission import admit_novel, new_index
from services.task_synthesis.examine import Drawing, Examined, examine
from services.task_synthesis.journal import Attempt
from services.task_synthesis.progress import NOT_COMPOSED, PROGRESS_SECONDS, Progress, Tally
from services.task_synthesis.workers import Workers
from synthagent.errors import LimitExceeded
from synthagent.metrics import ServerMetrics
from synthagent.store import Store, tasks
from synthagent.worlds.certify import Rejected
from synthagent.worlds.novelty import NoveltyIndex
from synthagent.worlds.spec import Task

ATTEMPTS_PER_TASK = 20
"""Attempts that a request may make for each task that it asks for."""

_EXAMINED_AT_ONCE = 2
"""Attempts of one job: enough to hide its cost, few enough to keep progress smooth."""

_JOBS_AHEAD = 1
"""Jobs that wait for a free worker."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a request asks for."""

    request_id: str
    count: int
    drawing: Drawing


class Synthesizer:
    """Runs synthesis requests. One request at a time for each request_id of this process."""

    def __init__(
        self,
        store: Store,
        workers: Workers,
        metrics: ServerMetrics,
        evaluation_items: Path | None = None,
    ) -> None:
        self._store = store
        self._workers = workers
        self._metrics = metrics
        self._evaluation_items = evaluation_items
        self._running: dict[str, asyncio.Lock] = {}

    async def run(self, order: Order) -> AsyncIterator[Task | Progress]:
        """The tasks in order, with progress between and at the end.

        Tasks that an earlier call of the same request made come first, from the store. Raises
        LimitExceeded after the last progress where the attempts did not suffice.
        """
        lock = self._running.setdefault(order.request_id, asyncio.Lock())
        try:
            async with lock:
                tally = Tally(order.count, order.count * ATTEMPTS_PER_TASK)
                index = await asyncio.to_thread(new_index, self._evaluation_items)
                async for task in self._stored(order, tally, index):
                    yield task
                if tally.open:
                    async for item in self._make(order, tally, index):
                        yield item
                yield tally.report()
                if tally.admitted < order.count:
                    raise _exhausted(tally)
        finally:
            if not lock.locked():
                self._running.pop(order.request_id, None)

    async def _stored(self, order: Order, tally: Tally, index: NoveltyIndex) -> AsyncIterator[Task]:
        """The tasks of earlier calls of the request."""
        request_id = order.request_id
        attempts = await self._store.read(lambda c: journal.load(c, request_id))
        complete = sum(bool(attempt.task_id) for attempt in attempts) >= order.count
        for attempt in attempts:
            tally.count(attempt)
            if attempt.task_id:
                task_id = attempt.task_id
                task = await self._store.read(lambda c, wanted=task_id: tasks.get(c, wanted))  # type: ignore[misc]  # mypy infers no type for a lambda's default
                if not complete:
                    await asyncio.to_thread(index.add, task)
                yield task

    async def _make(
        self, order: Order, tally: Tally, index: NoveltyIndex
    ) -> AsyncIterator[Task | Progress]:
        """New attempts until the order is filled or the attempts are used up."""
        jobs: deque[asyncio.Future[list[Examined]]] = deque()
        first = tally.attempted
        try:
            while tally.open:
                while len(jobs) < self._workers.size + _JOBS_AHEAD and first < tally.limit:
                    attempts = range(first, min(first + _EXAMINED_AT_ONCE, tally.limit))
                    jobs.append(self._workers.submit(examine, order.drawing, attempts))
                    first = attempts.stop
                while not jobs[0].done():
                    await asyncio.wait([jobs[0]], timeout=PROGRESS_SECONDS)
                    if tally.report_due:
                        yield tally.report()
                examined = await self._workers.result(jobs.popleft())
                for task in await self._settle(order, tally, index, examined):
                    yield task
                if tally.report_due:
                    yield tally.report()
        finally:
            for job in jobs:
                job.cancel()

    async def _settle(
        self,
        order: Order,
        tally: Tally,
        index: NoveltyIndex,
        examined: Sequence[Examined],
    ) -> list[Task]:
        """Passes attempts through the last gate, stores them, and returns the admitted tasks."""
        wanted = order.count - tally.admitted
        settled = await asyncio.to_thread(_settle, examined, index, wanted)
        request_id = order.request_id
        await self._store.write(lambda c: journal.keep(c, request_id, settled))
        for attempt, _ in settled:
            tally.count(attempt)
            if attempt.task_id:
                self._metrics.tasks_admitted.labels(order.drawing.split.value).inc()
            else:
                self._metrics.tasks_rejected.labels(attempt.gate or NOT_COMPOSED).inc()
        return [task for _, task in settled if task is not None]


def _settle(
    examined: Sequence[Examined], index: NoveltyIndex, wanted: int
) -> list[tuple[Attempt, Task | None]]:
    """The attempts with the tasks they gave, up to the `wanted`-th admitted one."""
    settled: list[tuple[Attempt, Task | None]] = []
    for each in examined:
        if wanted == 0:
            break
        refused = Attempt(each.attempt, each.seed, gate=each.gate, reason=each.reason)
        task = None
        if each.task is not None:
            try:
                task = admit_novel(Task.model_validate_json(each.task), index)
            except Rejected as rejected:
                refused = Attempt(
                    each.attempt, each.seed, gate=rejected.gate.value, reason=rejected.reason
                )
        if task is None:
            settled.append((refused, None))
        else:
            settled.append((Attempt(each.attempt, each.seed, task_id=task.task_id), task))
            wanted -= 1
    return settled


def _exhausted(tally: Tally) -> LimitExceeded:
    gate, refused = tally.rejected.most_common(1)[0]
    return LimitExceeded(
        f"Only {tally.admitted} of {tally.requested} tasks were admitted in {tally.attempted} "
        f"attempts; the gate {gate} refused {refused}. What was admitted is stored. Ask for fewer "
        "tasks, more domains or another difficulty.",
        admitted=str(tally.admitted),
        attempted=str(tally.attempted),
    )
