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
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from services.task_synthesis import journal, personas
from services.task_synthesis.admission import admit_novel, new_index
from services.task_synthesis.calls import Turns, count
from services.task_synthesis.journal import Attempt
from services.task_synthesis.model_item import Item, ItemMaker, Made, ModelOrder
from services.task_synthesis.progress import PROGRESS_SECONDS, Progress, Tally
from services.task_synthesis.router import Router
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


class ModelSynthesizer:
    """Runs requests for the model teacher."""

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
        self._turns = Turns()

    def run(self, order: ModelOrder) -> AsyncGenerator[Task | Progress, None]:
        """The tasks in order, with progress between and at the end.

        Tasks that an earlier call of the same request made come first, from the store. Raises
        LimitExceeded after the last progress where the items did not suffice, and what
        `ItemMaker.make` raises, after which a repeat goes on.
        """
        return self._turns.carry_out(order.request_id, lambda: self._begin(order))

    async def _begin(self, order: ModelOrder) -> _Call:
        index = await asyncio.to_thread(new_index, self._evaluation_items)
        earlier = await self._store.read(lambda c: journal.load(c, order.request_id))
        return _Call(self._store, self._maker, self._metrics, order, index=index, earlier=earlier)


class _Call:
    """One call of a request."""

    advice = (
        "Ask for fewer tasks, allow more items_per_task or repairs, or set "
        "SYNTHAGENT_TEACHER__MODEL to a stronger model."
    )

    def __init__(
        self,
        store: Store,
        maker: ItemMaker,
        metrics: ServerMetrics,
        order: ModelOrder,
        *,
        index: NoveltyIndex,
        earlier: Sequence[Attempt],
    ) -> None:
        self._store = store
        self._maker = maker
        self._metrics = metrics
        self._order = order
        self._index = index
        self._earlier = {attempt.number: attempt for attempt in earlier}
        self._router = Router(order.targets, order.seed)
        self._flight: deque[_InFlight] = deque()
        self._next_number = 0
        self.tally = Tally(order.count, order.count * order.items_per_task)

    async def items(self) -> AsyncGenerator[Task | Progress, None]:
        """The tasks in order; ends what is in flight, however it ends."""
        try:
            while self.tally.open:
                await self._fill()
                making = self._flight[0].making
                while making is not None and not making.done():
                    await asyncio.wait([making], timeout=PROGRESS_SECONDS)
                    if self.tally.report_due:
                        yield self.report()
                task = await self._settle()
                if task is not None:
                    yield task
                if self.tally.report_due:
                    yield self.report()
        finally:
            makings = [each.making for each in self._flight if each.making is not None]
            for making in makings:
                making.cancel()
            await asyncio.gather(*makings, return_exceptions=True)

    def report(self) -> Progress:
        """How far it is."""
        return self.tally.report(self._router.distance())

    async def _fill(self) -> None:
        """Draws items until as many are in flight as may be."""
        most = min(IN_FLIGHT, self._order.count - self.tally.admitted)
        while self._next_number < self.tally.limit and len(self._flight) < most:
            number = self._next_number
            self._next_number += 1
            earlier = self._earlier.get(number)
            if earlier is not None:
                self._router.follow(earlier.route)
                self._flight.append(_InFlight(number, earlier.route, None))
                continue
            route = self._router.draw()
            nth = self._router.attempted("persona", route["persona"]) - 1
            item = Item(number, route, await self._persona(route["persona"], nth))
            making = asyncio.create_task(self._maker.make(self._order, item))
            self._flight.append(_InFlight(number, route, making))

    async def _persona(self, group: str, nth: int) -> Persona:
        name, seed = self._order.persona_set, self._order.seed
        if name == personas.GENERATED:
            return personas.draw(group, nth, seed)
        size = await self._store.read(lambda c: stored_personas.count(c, name))
        position = personas.spread(f"{seed}/{name}", nth, size)
        return await self._store.read(lambda c: stored_personas.at(c, name, position))

    async def _settle(self) -> Task | None:
        """Settles the oldest item in flight, which is done; its task where it was admitted."""
        current = self._flight[0]
        if current.making is None:
            attempt = self._earlier[current.number]
        else:
            attempt = await self._judge_novelty(current, await current.making)
        self._flight.popleft()
        self._router.settle(current.route, admitted=bool(attempt.task_id))
        self.tally.count(attempt)
        if not attempt.task_id:
            return None
        task = await self._store.read(lambda c: tasks.get(c, attempt.task_id))
        await asyncio.to_thread(self._index.add, task)  # known already where it was made just now
        return task

    async def _judge_novelty(self, current: _InFlight, made: Made) -> Attempt:
        """Passes an item through the last gate and stores how it ended."""
        attempt = Attempt(
            number=current.number,
            seed=self._order.seed,
            gate=made.rejected_by,
            reason=made.reason,
            route=current.route,
            usage=made.usage,
        )
        task = None
        if made.task is not None:
            try:
                task = await asyncio.to_thread(admit_novel, made.task, self._index)
                attempt = replace(attempt, task_id=task.task_id)
            except Rejected as rejected:
                attempt = replace(attempt, gate=rejected.gate.value, reason=rejected.reason)
        stored = await self._store.write(
            lambda c: journal.settle(c, self._order.request_id, attempt, task, made.product)
        )
        count(self._metrics, self._order.split, stored)
        return stored
