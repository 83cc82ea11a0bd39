"""The proxy: what passes, what is late, and what is reset."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from benchmarks.chaos.proxy import Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionResetError):
        while line := await reader.readline():
            writer.write(line)
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    accepted: list[asyncio.Task[None]] = []
    server = await asyncio.start_server(
        lambda *streams: accepted.append(asyncio.create_task(echo(*streams))), "127.0.0.1", 0
    )
    with Proxy(server.sockets[0].getsockname()[1]) as started:
        yield started
    server.close()
    await asyncio.gather(*accepted)  # the proxy is gone, and its connections with it


async def connect(proxy: Proxy) -> Streams:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def ask(streams: Streams, line: bytes) -> bytes:
    streams[1].write(line)
    return await streams[0].readline()


async def is_cut(proxy: Proxy) -> bool:
    """Whether a new connection ends while it is made, or as soon as it is."""
    try:
        streams = await connect(proxy)
    except ConnectionResetError:
        return True
    try:
        return await streams[0].readline() == b""
    except ConnectionResetError:
        return True
    finally:
        streams[1].close()


async def test_what_is_sent_passes_both_ways_late_or_at_once(proxy: Proxy) -> None:
    streams = await connect(proxy)
    assert await ask(streams, b"one\n") == b"one\n"
    proxy.set(delay=0.2)
    await asyncio.sleep(0.2)
    begun = time.monotonic()
    assert await ask(streams, b"two\n") == b"two\n"
    assert time.monotonic() - begun >= 0.4  # there and back
    streams[1].close()


async def test_connections_are_reset_and_come_again_afterwards(proxy: Proxy) -> None:
    streams = await connect(proxy)
    assert await ask(streams, b"one\n") == b"one\n"
    proxy.set(reset=True)
    with pytest.raises(ConnectionResetError):
        await streams[0].readline()
    streams[1].close()
    assert await is_cut(proxy)
    proxy.set(reset=False)
    await asyncio.sleep(0.2)
    again = await connect(proxy)
    assert await ask(again, b"two\n") == b"two\n"
    again[1].close()
