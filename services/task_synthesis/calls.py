"""What every call of a request has, whoever the teacher is: its turn, its items, and its end.

Calls of one request_id go on from each other's rows, so in a process they take turns. A turn is
kept for as long as anybody holds it or waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol
from weakref import WeakValueDictionary

from services.task_synthesis.journal import Attempt
from services.task_synthesis.progress import NOT_COMPOSED, Progress, Tally
from synthagent.errors import LimitExceeded
from synthagent.metrics import ServerMetrics
from synthagent.worlds.spec import Split, Task


class Call(Protocol):
    """A call that is under way."""

    tally: Tally

    @property
    def advice(self) -> str:
        """What to do where the attempts did not suffice."""
        ...

    def items(self) -> AsyncGenerator[Task | Progress, None]:
        """The tasks in order, those of earlier calls too, with progress between."""
        ...

    def report(self) -> Progress:
        """How far it is."""
        ...


class Turns:
    """Carries calls out, one at a time for each request_id."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def carry_out(
        self, request_id: str, begin: Callable[[], Awaitable[Call]]
    ) -> AsyncGenerator[Task | Progress, None]:
        """The items of the call that `begin` begins, and its last progress.

        Raises LimitExceeded behind it where the attempts did not suffice.
        """
        lock = self._locks.setdefault(request_id, asyncio.Lock())
        async with lock:
            call = await begin()
            async with aclosing(call.items()) as items:
                async for item in items:
                    yield item
            yield call.report()
            if call.tally.admitted < call.tally.requested:
                raise _exhausted(call.tally, call.advice)


def count(metrics: ServerMetrics, split: Split, attempt: Attempt) -> None:
    """Counts an attempt that this call settled."""
    if attempt.task_id:
        metrics.tasks_admitted.labels(split.value).inc()
    else:
        metrics.tasks_rejected.labels(attempt.gate or NOT_COMPOSED).inc()


def _exhausted(tally: Tally, advice: str) -> LimitExceeded:
    gate, refused = tally.rejected.most_common(1)[0]
    return LimitExceeded(
        f"Only {tally.admitted} of {tally.requested} tasks were admitted in {tally.attempted} "
        f"items; {gate} refused {refused}. What was admitted is stored. {advice}",
        admitted=str(tally.admitted),
        attempted=str(tally.attempted),
    )
