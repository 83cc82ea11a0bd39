"""Tells waiting calls of this process that a run changed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Self


class Changes:
    """One bell a run. Other replicas ring no bell here, so waiters also look at intervals."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def ring(self, run_id: str) -> None:
        """Wakes who waits for that run."""
        for bell in self._waiting.get(run_id, ()):
            bell.set()

    def listen(self, run_id: str) -> Bell:
        """A bell that also remembers rings between two waits."""
        return Bell(self._waiting, run_id)


class Bell:
    """A listener; use as a context manager."""

    def __init__(self, waiting: defaultdict[str, set[asyncio.Event]], run_id: str) -> None:
        self._waiting = waiting
        self._run_id = run_id
        self._event = asyncio.Event()

    def __enter__(self) -> Self:
        self._waiting[self._run_id].add(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        listeners = self._waiting[self._run_id]
        listeners.discard(self._event)
        if not listeners:
            del self._waiting[self._run_id]

    async def wait(self, at_most_seconds: float) -> None:
        """Returns when it rang since the last wait, or after that time."""
        try:
            async with asyncio.timeout(at_most_seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()
