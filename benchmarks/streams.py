"""Drives many bidirectional streams of raw bytes and times them; the same for us and the reference.

Requests are serialized before the clock starts and responses stay bytes, so that the client costs
both servers the same and as little as possible.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc


@dataclass(frozen=True)
class StreamTiming:
    """Messages a second over all streams, and latency percentiles of one message in seconds."""

    per_second: float
    p50: float
    p99: float
    last_responses: tuple[bytes, ...]


async def drive(
    address: str, method: str, streams: Sequence[Sequence[bytes]], *, warmup: int
) -> StreamTiming:
    """Sends each stream's messages one after the other, all streams at once.

    The first `warmup` responses of every stream are not counted; the clock starts when every
    stream has passed them.
    """
    latencies: list[float] = []
    ready = asyncio.Barrier(len(streams) + 1)

    async with grpc.aio.insecure_channel(address) as channel:
        # Any: the stubs know only calls with an iterator of requests and with serializers.
        open_call: Any = channel.stream_stream
        call_factory: Any = open_call(method)

        async def one(messages: Sequence[bytes]) -> bytes:
            call = call_factory()
            response = b""
            for message in messages[:warmup]:
                await call.write(message)
                response = await call.read()
            await ready.wait()
            for message in messages[warmup:]:
                begun = time.perf_counter()
                await call.write(message)
                response = await call.read()
                latencies.append(time.perf_counter() - begun)
            await call.done_writing()
            return response

        tasks = [asyncio.create_task(one(messages)) for messages in streams]
        await ready.wait()
        begun = time.perf_counter()
        last = await asyncio.gather(*tasks)
        seconds = time.perf_counter() - begun
    latencies.sort()
    return StreamTiming(
        per_second=len(latencies) / seconds,
        p50=latencies[len(latencies) // 2],
        p99=latencies[int(len(latencies) * 0.99)],
        last_responses=tuple(last),
    )
