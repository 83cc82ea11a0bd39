from __future__ import annotations

import asyncio
import threading
import time

import pytest

from trainer.background import BackgroundLoop


def test_work_goes_on_while_the_caller_computes() -> None:
    loop = BackgroundLoop()
    reached = threading.Event()

    async def work() -> str:
        reached.set()
        return threading.current_thread().name

    future = loop.start(work())
    assert reached.wait(10)
    assert loop.wait(future, 10) == "background-loop"
    loop.close()


def test_a_wait_that_ends_early_cancels_the_work() -> None:
    loop = BackgroundLoop()
    cancelled = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        loop.run(work(), 0.05)
    assert cancelled.wait(10)
    loop.close()


def test_closing_ends_what_is_under_way() -> None:
    loop = BackgroundLoop()
    begun = threading.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(3600)

    future = loop.start(work())
    assert begun.wait(10)
    started = time.monotonic()
    loop.close()
    loop.close()
    assert time.monotonic() - started < 5
    assert future.cancelled()


def test_errors_come_out_where_they_are_waited_for() -> None:
    loop = BackgroundLoop()

    async def work() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError):
        loop.run(work(), 10)
    loop.close()
