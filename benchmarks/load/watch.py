"""Memory and processor time of the processes that serve, while a load lasts.

A `Watch` is a context manager. It counts the given processes and all that they have started;
a process that ends meanwhile keeps its time, which its parent has then. Needs Linux, where pages
that forked processes share are counted once.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Self

import psutil

_SAMPLES = 60
_SHORTEST_SECONDS = 1.0


class Watch:
    """Samples memory from a thread of its own."""

    def __init__(self, processes: Sequence[psutil.Process], seconds: float) -> None:
        """`seconds` is how long the load will last: it is sampled about sixty times."""
        self.samples: list[tuple[float, float]] = []
        """When, in seconds since the beginning, and how much, in MB."""
        self.cpu_seconds = 0.0
        self._processes = processes
        self._interval = max(_SHORTEST_SECONDS, seconds / _SAMPLES)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._before = self._cpu_seconds()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.cpu_seconds = self._cpu_seconds() - self._before

    @property
    def settled(self) -> list[tuple[float, float]]:
        """The samples without the first tenth, in which a server comes to its working size."""
        return self.samples[len(self.samples) // 10 :]

    @property
    def megabytes_before(self) -> float:
        """Mean of the first tenth of the settled samples."""
        return statistics.fmean(megabytes for _, megabytes in self.settled[: self._tenth])

    @property
    def megabytes_after(self) -> float:
        """Mean of the last tenth."""
        return statistics.fmean(megabytes for _, megabytes in self.settled[-self._tenth :])

    @property
    def megabytes_per_minute(self) -> float:
        """Slope of the line of least squares through the settled samples; 0 for one sample."""
        if len(self.settled) < 2:
            return 0.0
        return 60.0 * statistics.linear_regression(*zip(*self.settled, strict=True)).slope

    @property
    def _tenth(self) -> int:
        return max(1, len(self.settled) // 10)

    def _living(self) -> Iterator[psutil.Process]:
        for process in self._processes:
            yield process
            yield from process.children(recursive=True)

    def _cpu_seconds(self) -> float:
        # All four: own time and that of processes which have ended.
        return sum(sum(process.cpu_times()[:4]) for process in self._living())

    def _sample(self) -> None:
        started = time.monotonic()
        while not self._done.wait(self._interval):
            used = sum(process.memory_full_info().pss for process in self._living())
            self.samples.append((time.monotonic() - started, used / 1e6))
