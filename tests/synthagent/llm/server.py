"""A model server that misbehaves on demand: raw HTTP over real sockets, a script per test."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def schema_name(self) -> str:
        return str(self.body["response_format"]["json_schema"]["name"])


Act = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class ModelServer:
    """Plays one act per request; the last one is played for ever."""

    acts: list[Act]
    port: int = 0
    requests: list[Received] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (received := await _read(reader)) is not None:
                self.requests.append(received)
                act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                try:
                    await act(received, writer)
                finally:
                    self.in_flight -= 1
                if writer.is_closing():
                    break
        except ConnectionError:
            pass  # the client left
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    lines = head.split("\r\n")
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(lines[0].split(" ")[1], headers, json.loads(body))


@asynccontextmanager
async def serving(*acts: Act, port: int = 0) -> AsyncIterator[ModelServer]:
    """A server on a free port (or the given one) while the block runs."""
    model_server = ModelServer(list(acts), port)
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await model_server.serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            connections.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    model_server.port = server.sockets[0].getsockname()[1]
    try:
        yield model_server
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        if connections:
            await asyncio.wait(list(connections))


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def completion(
    content: str | None,
    *,
    finish_reason: str | None = "stop",
    prompt_tokens: int = 7,
    completion_tokens: int = 3,
    **message: Any,
) -> dict[str, Any]:
    """A chat completion as a server sends it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, **message},
            }
        ],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }


def response(
    status: int, body: bytes, content_type: str = "application/json", **headers: str
) -> bytes:
    """The bytes of a response."""
    lines = [
        f"HTTP/1.1 {status} X",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def raw(payload: bytes) -> Act:
    """Sends bytes."""

    async def act(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(payload)
        await writer.drain()

    return act


def says(content: str | None, **parts: Any) -> Act:
    """Answers with a text."""
    return raw(response(200, json.dumps(completion(content, **parts)).encode()))


def fails(status: int, message: str = "no", **headers: str) -> Act:
    """Answers with an error."""
    body = json.dumps({"error": {"message": message, "type": "x", "code": None}}).encode()
    return raw(response(status, body, **headers))


async def hangs(_: Received, __: asyncio.StreamWriter) -> None:
    """Never answers."""
    await asyncio.Event().wait()


def slowly(seconds: float, then: Act) -> Act:
    """Waits before it acts."""

    async def act(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await then(received, writer)

    return act


async def resets(_: Received, writer: asyncio.StreamWriter) -> None:
    """Breaks the connection off in the middle of the body."""
    writer.write(response(200, b"x" * 1000)[:200])
    await writer.drain()
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def cuts(_: Received, writer: asyncio.StreamWriter) -> None:
    """Ends the connection before the body is whole."""
    whole = response(200, json.dumps(completion("Hello")).encode())
    writer.write(whole[:-20])
    await writer.drain()
    writer.close()


def endless(chunk: bytes = b" " * 4096, pause: float = 0.0) -> Act:
    """Sends a chunked body that never ends."""

    async def act(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        while True:
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await writer.drain()
            await asyncio.sleep(pause)

    return act
