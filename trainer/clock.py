"""Where a step's time goes: seconds by activity, measured where they are spent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds of each activity since they were last taken. Activities do not nest."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measured(self, activity: str) -> Iterator[None]:
        """Adds the time within to `activity`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self._seconds[activity] = self._seconds.get(activity, 0.0) + spent

    def taken(self) -> dict[str, float]:
        """Seconds by `<activity>_seconds`, as a row of metrics has them; begins anew."""
        seconds = {f"{activity}_seconds": spent for activity, spent in self._seconds.items()}
        self._seconds = {}
        return seconds
