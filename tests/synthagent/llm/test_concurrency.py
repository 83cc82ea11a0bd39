import asyncio
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge

from synthagent.llm.concurrency import AdaptiveLimit


def new_limit(highest: int) -> AdaptiveLimit:
    registry = CollectorRegistry()
    names = ("limit", "in_flight", "waiting")
    return AdaptiveLimit(highest, *(Gauge(name, "A gauge.", registry=registry) for name in names))


async def use(limit: AdaptiveLimit, *, push_back: bool = False, pause: float = 0.0) -> None:
    async with limit.slot() as slot:
        await asyncio.sleep(pause)
        if push_back:
            slot.push_back()
        else:
            slot.succeed()


async def test_waiting_callers_are_served_in_order() -> None:
    limit = new_limit(1)
    served: list[int] = []

    async def caller(number: int) -> None:
        async with limit.slot():
            served.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(caller(number) for number in range(10)))
    assert served == list(range(10))


async def test_those_that_were_in_flight_together_halve_the_limit_once() -> None:
    limit = new_limit(16)
    await asyncio.gather(*(use(limit, push_back=True) for _ in range(16)))
    assert limit.limit == 8
    await asyncio.gather(*(use(limit, push_back=True) for _ in range(8)))
    assert limit.limit == 4


async def test_the_limit_never_falls_below_one() -> None:
    limit = new_limit(2)
    for _ in range(5):
        await use(limit, push_back=True)
    assert limit.limit == 1
    await use(limit)


async def test_the_limit_rises_again_by_one_a_round_and_only_where_it_is_reached() -> None:
    limit = new_limit(8)
    await asyncio.gather(*(use(limit, push_back=True) for _ in range(8)))
    for _ in range(50):
        await use(limit)  # alone: says nothing about a higher limit
    assert limit.limit == 4
    await asyncio.gather(*(use(limit) for _ in range(8)))
    assert limit.limit == 5
    for _ in range(20):
        await asyncio.gather(*(use(limit) for _ in range(20)))
    assert limit.limit == 8


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=25))
def test_cancellation_at_any_moment_loses_no_slot(
    highest: int, plan: list[tuple[int, bool]]
) -> None:
    async def play() -> None:
        limit = new_limit(highest)
        running = [asyncio.ensure_future(use(limit)) for _ in plan]
        for task, (turns, cancelled) in zip(running, plan, strict=True):
            for _ in range(turns):
                await asyncio.sleep(0)
            if cancelled:
                task.cancel()
        for task in running:
            with suppress(asyncio.CancelledError):
                await task
        async with asyncio.timeout(1), limit.slot():
            pass
        together = [asyncio.ensure_future(use(limit, pause=0.001)) for _ in range(highest)]
        await asyncio.gather(*together)

    asyncio.run(play())
