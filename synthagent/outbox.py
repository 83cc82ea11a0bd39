"""What waits to be sent together: messages small enough for every server and client.

Whoever writes a stream takes what is there at the time. Nothing is held back to fill a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

M = TypeVar("M")

MOST = 64
"""Most parts of one message."""

MOST_BYTES = 2**16 - 2**12
"""Most bytes of a message of several parts: below the least that `max_message_bytes` may be."""


class Outbox(Generic[M]):
    """Parts of messages, first come, first sent. Used by one event loop."""

    def __init__(self, size: Callable[[M], int], room: int = 0) -> None:
        """`size` is in bytes. Where `room` parts wait, `put` waits, too; 0 means never."""
        self._size = size
        self._parts: asyncio.Queue[M | None] = asyncio.Queue(room)
        self._kept: M | None = None

    async def put(self, part: M) -> None:
        """Adds a part, once there is room."""
        await self._parts.put(part)

    def put_nowait(self, part: M | None) -> None:
        """Adds a part; None is the end. Raises asyncio.QueueFull."""
        self._parts.put_nowait(part)

    async def end(self) -> None:
        """Nothing comes any more."""
        await self._parts.put(None)

    async def take(self) -> list[M]:
        """The parts of the next message: at least one, or none at the end."""
        part = self._kept if self._kept is not None else await self._parts.get()
        self._kept = None
        together: list[M] = []
        size = 0
        while part is not None:
            size += self._size(part)
            if together and size > MOST_BYTES:
                self._kept = part
                return together
            together.append(part)
            if len(together) == MOST or self._parts.empty():
                return together
            part = self._parts.get_nowait()
        self._parts.put_nowait(None)  # found again, by whoever takes next
        return together
