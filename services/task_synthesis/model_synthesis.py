"""Runs a request with a model teacher: routes, items in flight, settlement, and going on.

Item k is drawn when item k - IN_FLIGHT has been settled, and items are settled in the order of k:
router and novelty gate see the same in every run, whatever was answered first, so what comes out
follows from the answers of the models alone. Those are stored under (request, k). After a crash the
settled items are read from the journal, the router is led through them again, and items that were
in flight are made again from stored answers. No more items are in flight than tasks are missing, so
that none is made in vain.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from services.task_synthesis import journal, personas
from services.task_synthesis.admission import admit_novel, new_index
from services.task_synthesis.journal import Attempt
from services.task_synthesis.model_item import Item, ItemMaker, Made, ModelOrder
from services.task_synthesis.progress import PROGRESS_SECONDS, Progress, Tally
from services.task_synthesis.router import Router
from synthagent.errors import LimitExceeded
from synthagent.metrics import ServerMetrics
from synthagent.store import Store, tasks
from synthagent.store import personas as stored_personas
from synthagent.worlds.certify import Rejected
from synthagent.worlds.novelty import NoveltyIndex
from synthagent.worlds.spec import Persona, Task

IN_FLIGHT = 8
"""Items of one request that are made at the same time, at most."""


@dataclass(frozen=True, slots=True)
class _InFlight:
    """An item under way; one that an earlier call of the request settled has nothing to make."""

    number: int
    route: Mapping[str, str]
    making: asyncio.Task[Made] | None


@dataclass
class _Run:
    """The state of one call of a request."""

    order: ModelOrder
    tally: Tally
    router: Router
    index: NoveltyIndex
    earlier: dict[int, Attempt]
    flight: deque[_InFlight]
    next_number: int = 0

    @property
    def has_room(self) -> bool:
        """Whether another item may be drawn."""
        missing = self.order.count - self.tally.admitted
        return self.next_number < self.tally.limit and len(self.flight) < min(IN_FLIGHT, missing)

    def report(self) -> Progress:
        return self.tally.report(self.router.distance())


class ModelSynthesizer:
    """Runs requests for the model teacher. One call at a time for each request_id of a process."""

    def __init__(
        self,
        store: Store,
        maker: ItemMaker,
        metrics: ServerMetrics,
        evaluation_items: Path | None = None,
    ) -> None:
        self._store = store
        self._maker = maker
        self._metrics = metrics
        self._evaluation_items = evaluation_items
        self._running: dict[str, asyncio.Lock] = {}

    async def run(self, order: ModelOrder) -> AsyncIterator[Task | Progress]:
        """The tasks in order, with progress between and at the end.

        Tasks that an earlier call of the same request made come first, from the store. Raises
        LimitExceeded after the last progress where the items did not suffice, BackendUnavailable
        where a model server or a service is out of reach; a repeat goes on.
        """
        lock = self._running.setdefault(order.request_id, asyncio.Lock())
        try:
            async with lock, self._begun(order) as run:
                while run.tally.open:
                    await self._fill(run)
                    async for progress in self._wait(run):
                        yield progress
                    task = await self._settle(run)
                    if task is not None:
                        yield task
                    if run.tally.report_due:
                        yield run.report()
                yield run.report()
                if run.tally.admitted < order.count:
                    raise _exhausted(run.tally)
        finally:
            if not lock.locked():
                self._running.pop(order.request_id, None)

    @asynccontextmanager
    async def _begun(self, order: ModelOrder) -> AsyncIterator[_Run]:
        """The state of the request with what earlier calls settled; ends what is in flight."""
        index = await asyncio.to_thread(new_index, self._evaluation_items)
        earlier = await self._store.read(lambda c: journal.load(c, order.request_id))
        run = _Run(
            order=order,
            tally=Tally(order.count, order.count * order.items_per_task),
            router=Router(order.targets, order.seed),
            index=index,
            earlier={attempt.number: attempt for attempt in earlier},
            flight=deque(),
        )
        try:
            yield run
        finally:
            makings = [each.making for each in run.flight if each.making is not None]
            for making in makings:
                making.cancel()
            await asyncio.gather(*makings, return_exceptions=True)

    async def _fill(self, run: _Run) -> None:
        """Draws items until as many are in flight as may be."""
        while run.has_room:
            number = run.next_number
            run.next_number += 1
            earlier = run.earlier.get(number)
            if earlier is not None:
                run.router.follow(earlier.route)
                run.flight.append(_InFlight(number, earlier.route, None))
                continue
            route = run.router.draw()
            nth = run.router.attempted("persona", route["persona"]) - 1
            persona = await self._persona(run.order, route["persona"], nth)
            making = asyncio.create_task(self._maker.make(run.order, Item(number, route, persona)))
            run.flight.append(_InFlight(number, route, making))

    async def _persona(self, order: ModelOrder, group: str, nth: int) -> Persona:
        if order.persona_set == personas.GENERATED:
            return personas.draw(group, nth, order.seed)
        name = order.persona_set
        size = await self._store.read(lambda c: stored_personas.count(c, name))
        position = personas.spread(f"{order.seed}/{name}", nth, size)
        return await self._store.read(lambda c: stored_personas.at(c, name, position))

    async def _wait(self, run: _Run) -> AsyncIterator[Progress]:
        """Waits for the oldest item in flight, and tells that the stream is alive."""
        making = run.flight[0].making
        while making is not None and not making.done():
            await asyncio.wait([making], timeout=PROGRESS_SECONDS)
            if run.tally.report_due:
                yield run.report()

    async def _settle(self, run: _Run) -> Task | None:
        """Settles the oldest item in flight, which is done; its task where it was admitted."""
        current = run.flight[0]
        if current.making is None:
            attempt = run.earlier[current.number]
        else:
            attempt = await self._judge_novelty(run, current, await current.making)
        run.flight.popleft()
        run.router.settle(current.route, admitted=bool(attempt.task_id))
        run.tally.count(attempt)
        if not attempt.task_id:
            return None
        task = await self._store.read(lambda c: tasks.get(c, attempt.task_id))
        await asyncio.to_thread(run.index.add, task)  # known already where it was made just now
        return task

    async def _judge_novelty(self, run: _Run, current: _InFlight, made: Made) -> Attempt:
        """Passes an item through the last gate and stores how it ended."""
        attempt = Attempt(
            number=current.number,
            seed=run.order.seed,
            gate=made.rejected_by,
            reason=made.reason,
            route=current.route,
            usage=made.usage,
        )
        task = None
        if made.task is not None:
            try:
                task = await asyncio.to_thread(admit_novel, made.task, run.index)
                attempt = replace(attempt, task_id=task.task_id)
            except Rejected as rejected:
                attempt = replace(attempt, gate=rejected.gate.value, reason=rejected.reason)
        request_id = run.order.request_id
        stored = await self._store.write(
            lambda c: journal.settle(c, request_id, attempt, task, made.product)
        )
        if stored.task_id:
            self._metrics.tasks_admitted.labels(run.order.split.value).inc()
        else:
            self._metrics.tasks_rejected.labels(stored.gate).inc()
        return stored


def _exhausted(tally: Tally) -> LimitExceeded:
    step, refused = tally.rejected.most_common(1)[0]
    return LimitExceeded(
        f"Only {tally.admitted} of {tally.requested} tasks were admitted in {tally.attempted} "
        f"items; {step} gave up {refused}. What was admitted is stored. Ask for fewer tasks, allow "
        "more items_per_task or repairs, or set SYNTHAGENT_TEACHER__MODEL to a stronger model.",
        admitted=str(tally.admitted),
        attempted=str(tally.attempted),
    )
