"""How many calls one role may have in flight: adapted to what its server bears.

Additive increase, multiplicative decrease: a server that pushes back (429, 503, no answer in time)
halves the limit, once for all the calls that were in flight together; answers given while the limit
was reached raise it again, by one for each round of calls. Waiting callers are served in the order
in which they came. A caller that is cancelled gives back its place, or the slot that it was just
given.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from prometheus_client import Gauge


class Slot:
    """A place in flight. `push_back` says that the server could not bear it."""

    __slots__ = ("epoch", "pushed_back", "succeeded")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.pushed_back = False
        self.succeeded = False

    def push_back(self) -> None:
        """The server is overloaded: the limit falls when the slot is given back."""
        self.pushed_back = True

    def succeed(self) -> None:
        """The server answered: the limit may rise when the slot is given back."""
        self.succeeded = True


class AdaptiveLimit:
    """The slots of one role. Belongs to one event loop."""

    def __init__(self, highest: int, limit: Gauge, in_flight: Gauge, waiting: Gauge) -> None:
        self._highest = highest
        self._limit = float(highest)
        self._in_flight = 0
        self._epoch = 0
        """Number of decreases so far: a slot of an earlier one brings no further decrease."""
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._limit_gauge = limit
        self._in_flight_gauge = in_flight
        self._waiting_gauge = waiting
        limit.set(highest)

    @property
    def limit(self) -> int:
        """Calls that may be in flight now; at least one."""
        return int(self._limit)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """A place in flight for the block; waits for one, first come first served."""
        await self._acquire()
        slot = Slot(self._epoch)
        try:
            yield slot
        finally:
            self._settle(slot)

    async def _acquire(self) -> None:
        if self._in_flight < self.limit and not self._waiters:
            self._take()
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._waiting_gauge.inc()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._give_back()  # the slot came together with the cancellation
            else:
                with suppress(ValueError):  # already taken out by a slot that passed it by
                    self._waiters.remove(waiter)
            raise
        finally:
            self._waiting_gauge.dec()

    def _settle(self, slot: Slot) -> None:
        full = self._in_flight >= self.limit
        if slot.pushed_back and slot.epoch == self._epoch:
            self._epoch += 1
            self._limit = max(1.0, min(self._limit, self._in_flight) / 2)
        elif slot.succeeded and full:
            self._limit = min(float(self._highest), self._limit + 1 / self._limit)
        self._limit_gauge.set(self.limit)
        self._give_back()

    def _take(self) -> None:
        self._in_flight += 1
        self._in_flight_gauge.set(self._in_flight)

    def _give_back(self) -> None:
        self._in_flight -= 1
        self._in_flight_gauge.set(self._in_flight)
        while self._waiters and self._in_flight < self.limit:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._take()
                waiter.set_result(None)
