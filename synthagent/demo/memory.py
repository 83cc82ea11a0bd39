"""Watches how much memory a tree of processes uses at its worst."""

from __future__ import annotations

import threading
from typing import Self

import psutil


class PeakMemory:
    """Samples the resident memory of this process and all below it until it is stopped.

    Pages shared between processes (libraries, forked memory) count once for each, so the figure is
    an upper bound.
    """

    def __init__(self, interval_seconds: float = 0.5) -> None:
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._peak = 0
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak_mb(self) -> int:
        """Highest sum so far, in MB (10^6 bytes)."""
        return self._peak // 10**6

    def _watch(self) -> None:
        root = psutil.Process()
        while not self._stop.wait(self._interval):
            total = 0
            for process in [root, *root.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue  # it ended between the listing and the look
            self._peak = max(self._peak, total)
