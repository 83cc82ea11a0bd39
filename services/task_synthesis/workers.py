"""The processes that compose and certify: CPU-bound work beside the event loop.

Owns a pool that starts with its first job and ends with the service. A worker ends by itself when
its server is gone, however it went.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import ParamSpec, TypeVar

from synthagent.errors import BackendUnavailable

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of processes; `size` None means one for each CPU this process may use, at most two."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size or min(2, len(os.sched_getaffinity(0)))
        self._pool: ProcessPoolExecutor | None = None
        self._closed = False

    def submit(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """The future result of `job`, a function of a module, run in a worker."""
        if self._closed:
            raise BackendUnavailable("The server is shutting down; call again.")
        if self._pool is None:
            # spawn: a fork would copy gRPC's threads and locks in the middle of what they do
            self._pool = ProcessPoolExecutor(
                self.size, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
            )
        try:
            return asyncio.wrap_future(self._pool.submit(job, *args, **kwargs))
        except BrokenProcessPool as error:
            raise self._broken() from error

    async def result(self, future: asyncio.Future[T]) -> T:
        """The result of a submitted job. Raises BackendUnavailable where its worker died."""
        try:
            return await future
        except BrokenProcessPool as error:
            raise self._broken() from error

    async def close(self) -> None:
        """Ends the workers; a running job is waited for, others are dropped."""
        self._closed = True
        if self._pool is not None:
            await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
            self._pool = None

    def _broken(self) -> BackendUnavailable:
        self._pool = None
        return BackendUnavailable(
            "A worker process ended unexpectedly; repeat the request, it goes on where it was cut."
        )


def _begin() -> None:
    """Prepares a worker: Ctrl-C is the server's to handle, and the server's end is the worker's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
