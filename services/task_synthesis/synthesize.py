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
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.task_synthesis import journal
from services.task_synthesis.admission import admit_novel, new_index
from services.task_synthesis.calls import Turns, count
from services.task_synthesis.examine import Drawing, Examined, examine
from services.task_synthesis.journal import Attempt
from services.task_synthesis.progress import PROGRESS_SECONDS, Progress, Tally
from services.task_synthesis.workers import Workers
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
    """Runs requests for the programmatic teacher."""

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
        self._turns = Turns()

    def run(self, order: Order) -> AsyncGenerator[Task | Progress, None]:
        """The tasks in order, with progress between and at the end.

        Tasks that an earlier call of the same request made come first, from the store. Raises
        LimitExceeded after the last progress where the attempts did not suffice.
        """
        return self._turns.carry_out(order.request_id, lambda: self._begin(order))

    async def _begin(self, order: Order) -> _Call:
        index = await asyncio.to_thread(new_index, self._evaluation_items)
        earlier = await self._store.read(lambda c: journal.load(c, order.request_id))
        return _Call(self._store, self._workers, self._metrics, order, index=index, earlier=earlier)


class _Call:
    """One call of a request."""

    advice = "Ask for fewer tasks, more domains or another difficulty."

    def __init__(
        self,
        store: Store,
        workers: Workers,
        metrics: ServerMetrics,
        order: Order,
        *,
        index: NoveltyIndex,
        earlier: Sequence[Attempt],
    ) -> None:
        self._store = store
        self._workers = workers
        self._metrics = metrics
        self._order = order
        self._index = index
        self._earlier = earlier
        self.tally = Tally(order.count, order.count * ATTEMPTS_PER_TASK)

    async def items(self) -> AsyncGenerator[Task | Progress, None]:
        """The tasks of earlier calls, then new ones until the order is filled or limited."""
        complete = sum(bool(attempt.task_id) for attempt in self._earlier) >= self._order.count
        for attempt in self._earlier:
            self.tally.count(attempt)
            if attempt.task_id:
                task = await self._store.read(partial(tasks.get, task_id=attempt.task_id))
                if not complete:
                    await asyncio.to_thread(self._index.add, task)
                yield task
        async with aclosing(self._new()) as new:
            async for item in new:
                yield item

    def report(self) -> Progress:
        """How far it is."""
        return self.tally.report()

    async def _new(self) -> AsyncGenerator[Task | Progress, None]:
        jobs: deque[asyncio.Future[list[Examined]]] = deque()
        first, limit = self.tally.attempted, self.tally.limit
        try:
            while self.tally.open:
                while len(jobs) < self._workers.size + _JOBS_AHEAD and first < limit:
                    attempts = range(first, min(first + _EXAMINED_AT_ONCE, limit))
                    jobs.append(self._workers.submit(examine, self._order.drawing, attempts))
                    first = attempts.stop
                while not jobs[0].done():
                    await asyncio.wait([jobs[0]], timeout=PROGRESS_SECONDS)
                    if self.tally.report_due:
                        yield self.report()
                examined = await self._workers.result(jobs.popleft())
                for task in await self._settle(examined):
                    yield task
                if self.tally.report_due:
                    yield self.report()
        finally:
            for job in jobs:
                job.cancel()

    async def _settle(self, examined: Sequence[Examined]) -> list[Task]:
        """Passes attempts through the last gate, stores them, and returns the admitted tasks."""
        wanted = self._order.count - self.tally.admitted
        settled = await asyncio.to_thread(_settle, examined, self._index, wanted)
        await self._store.write(lambda c: journal.keep(c, self._order.request_id, settled))
        for attempt, _ in settled:
            self.tally.count(attempt)
            count(self._metrics, self._order.drawing.split, attempt)
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
