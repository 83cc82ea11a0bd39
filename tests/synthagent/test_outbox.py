"""What is sent together, in order, and in messages small enough."""

import asyncio

import pytest

from synthagent.outbox import MOST, MOST_BYTES, Outbox


async def taken(outbox: Outbox[bytes]) -> list[int]:
    return [len(part) for part in await outbox.take()]


async def test_what_is_there_goes_together_up_to_a_number() -> None:
    outbox: Outbox[bytes] = Outbox(len)
    for size in range(MOST + 2):
        outbox.put_nowait(bytes(size))
    assert await taken(outbox) == list(range(MOST))
    assert await taken(outbox) == [MOST, MOST + 1]


async def test_a_message_of_several_parts_is_small() -> None:
    outbox: Outbox[bytes] = Outbox(len)
    sizes = [MOST_BYTES - 10, 10, 1, 3 * MOST_BYTES, 1, 2]
    for size in sizes:
        outbox.put_nowait(bytes(size))
    await outbox.end()
    assert await taken(outbox) == [MOST_BYTES - 10, 10]
    assert await taken(outbox) == [1]
    assert await taken(outbox) == [3 * MOST_BYTES]  # alone: it cannot be made smaller
    assert await taken(outbox) == [1, 2]
    assert await taken(outbox) == []
    assert await taken(outbox) == []


async def test_the_end_comes_behind_everything() -> None:
    outbox: Outbox[bytes] = Outbox(len)
    taking = asyncio.create_task(taken(outbox))
    await asyncio.sleep(0)
    assert not taking.done()
    await outbox.put(b"a")
    assert await taking == [1]
    await outbox.end()
    assert await taken(outbox) == []


async def test_who_finds_no_room_waits() -> None:
    outbox: Outbox[bytes] = Outbox(len, room=2)
    for part in (b"", b"a"):
        await outbox.put(part)
    with pytest.raises(asyncio.QueueFull):
        outbox.put_nowait(b"bb")
    putting = asyncio.create_task(outbox.put(b"ccc"))
    await asyncio.sleep(0)
    assert not putting.done()
    assert await taken(outbox) == [0, 1]
    await putting
    assert await taken(outbox) == [3]
