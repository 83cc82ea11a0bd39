"""A TCP proxy that resets connections and delays what passes, in a process of its own.

`python -m benchmarks.chaos.proxy TARGET_PORT` listens on a free port of 127.0.0.1, prints it, and
obeys lines of standard input: a JSON object with any of `delay` (seconds that each packet waits)
and `reset` (whether connections are reset as they come; true also resets those that are open). It
ends with its input. `Proxy` is the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
from types import TracebackType
from typing import Self

_PACKET = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends RST


class Forwarder:
    """Forwards connections to a port of this machine, in this process's event loop."""

    def __init__(self, target_port: int) -> None:
        self.delay = 0.0
        self.refuses = False
        self._target_port = target_port
        self._open: set[asyncio.StreamWriter] = set()

    def reset_all(self) -> None:
        """Resets every connection that is open."""
        for writer in list(self._open):
            _reset(writer)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards one connection until either end closes it."""
        if self.refuses:
            _reset(writer)
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:  # the target is away: so it looks from here, too
            _reset(writer)
            return
        self._open |= {writer, there[1]}
        try:
            await asyncio.gather(self._pump(reader, there[1]), self._pump(there[0], writer))
        finally:
            self._open -= {writer, there[1]}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # either end may be gone at any time
            while data := await reader.read(_PACKET):
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


async def forward(target_port: int) -> None:
    """Forwards until standard input ends."""
    forwarder = Forwarder(target_port)
    server = await asyncio.start_server(forwarder.accept, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - read by the starter
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        forwarder.delay = command.get("delay", forwarder.delay)
        forwarder.refuses = command.get("reset", forwarder.refuses)
        if forwarder.refuses:
            forwarder.reset_all()
    server.close()


class Proxy:
    """A proxy process before a port of this machine; a context manager."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", __name__, str(self._target_port)]
        self._process = subprocess.Popen(  # noqa: S603 - this module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        if self._process.stdout is not None:
            self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()

    def set(self, *, delay: float | None = None, reset: bool | None = None) -> None:
        """Changes what the proxy does to connections; None leaves a part as it is."""
        given = {"delay": delay, "reset": reset}
        line = json.dumps({name: value for name, value in given.items() if value is not None})
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the proxy does not run")
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


if __name__ == "__main__":
    asyncio.run(forward(int(sys.argv[1])))
