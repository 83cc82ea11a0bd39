"""An event loop on a thread of its own, for what goes on while the trainer computes.

Lifecycle: runs from its making to `close`, which cancels what is still under way. The caller's
thread waits on plain futures, so Ctrl-C and timeouts end the wait and never the loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent import futures
from typing import Any, TypeVar

T = TypeVar("T")

_END_SECONDS = 10.0


class BackgroundLoop:
    """Runs coroutines beside the caller."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: a trainer that dies of an error elsewhere must not wait for it.
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="background-loop", daemon=True
        )
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> futures.Future[T]:
        """Starts `work` and returns at once."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """The result of `work`. Raises TimeoutError after `seconds`, and what it raises."""
        return self.wait(self.start(work), seconds)

    def wait(self, future: futures.Future[T], seconds: float) -> T:
        """As `run`, of work that was started before; it is cancelled where the wait ends early."""
        try:
            return future.result(seconds)
        finally:
            future.cancel()  # does nothing where it has ended

    def close(self) -> None:
        """Cancels what is under way and ends the thread. Nothing may be started afterwards."""
        if self._loop.is_closed():
            return
        ended = asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop)
        futures.wait([ended], _END_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_others() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
