"""Load on ToolMock: sessions that call for as long as it lasts, and calls that come regardless.

Messages are serialized before the clock starts, so that the client costs little.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from benchmarks import world
from synthagent.api.v1 import tool_pb2
from synthagent.failures import from_rpc_error

_SESSION = "/synthagent.api.v1.ToolMock/Session"
_CALL = "/synthagent.api.v1.ToolMock/CallTool"
_CYCLE = 4
"""Calls after which the world is as it was."""

_STREAMS = 250
"""Most sessions of one connection."""

_OPENING_SECONDS = 60.0
"""Longest that sessions may take to open, all at once."""

_OPTIONS = [
    # Over all addresses that a name has, as SynthAgentClient does.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    ("grpc.use_local_subchannel_pool", 1),  # channels of one target share no connection
]


@dataclass
class Driven:
    """What came of a load. Latencies in seconds; `errors` counts by status or error code."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    told_when: int = 0
    """Refusals that said when to come again."""

    def refuse(self, error: grpc.aio.AioRpcError) -> None:
        """Counts a call that ended with a status."""
        self.errors[error.code().name] += 1
        self.told_when += from_rpc_error(error).retry_after is not None

    @property
    def answered(self) -> int:
        """Calls with a result."""
        return len(self.latencies)

    @property
    def per_second(self) -> float:
        """Results a second."""
        return self.answered / self.seconds

    def quantile(self, q: float) -> float:
        """Latency that the share `q` of results was within, in seconds."""
        return float(np.quantile(self.latencies, q)) if self.latencies else float("nan")


def _messages(task_id: str) -> tuple[bytes, list[tuple[str, str]]]:
    opening = tool_pb2.SessionRequest(open=tool_pb2.OpenSession(task_id=task_id))
    return opening.SerializeToString(), list(world.calls(_CYCLE))


@dataclass
class _Clock:
    """When sessions end, and the seconds from call to call of each."""

    end: float
    period: float


async def hold_sessions(target: str, task_id: str, sessions: int, seconds: float) -> Driven:
    """`sessions` at once on a gRPC target; each calls again as soon as it is answered."""
    held, _ = await crowd(target, task_id, sessions, seconds, more=0, period=0.0)
    return held


async def crowd(
    target: str, task_id: str, sessions: int, seconds: float, *, more: int, period: float
) -> tuple[Driven, Driven]:
    """The same, while `more` others ask for a session each, and ask again when they are told to.

    Each session calls at most once in `period` seconds. Returns what came of the calls, and of the
    others: those that were let in are "answered".
    """
    held, others = Driven(), Driven()
    messages = _messages(task_id)
    ready, clock = asyncio.Barrier(sessions + 1), _Clock(math.inf, period)
    longest = seconds + _OPENING_SECONDS
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(target, _OPTIONS))
            for _ in range(-(-(sessions + more) // _STREAMS))
        ]
        each = itertools.cycle([_opener(channel) for channel in channels])
        async with asyncio.TaskGroup() as tasks:
            for _ in range(sessions):
                stream = next(each)(timeout=longest)
                tasks.create_task(_hold(stream, messages, held, ready, clock))
            await ready.wait()
            started = time.perf_counter()
            knocks = (
                _knock(next(each), messages[0], others, started + seconds) for _ in range(more)
            )
            await asyncio.gather(*knocks)
            others.seconds = time.perf_counter() - started
            await asyncio.sleep(seconds - others.seconds)
            clock.end = time.perf_counter()  # so that nobody was let in by a session that ended
        held.seconds = max(held.seconds, clock.end) - started
    return held, others


def _opener(channel: grpc.aio.Channel) -> Any:
    """What opens session streams of bytes."""
    # Any: the stubs know only calls with an iterator of requests and with serializers.
    open_call: Any = channel.stream_stream
    return open_call(_SESSION)


async def _hold(
    stream: Any,
    messages: tuple[bytes, list[tuple[str, str]]],
    driven: Driven,
    ready: asyncio.Barrier,
    clock: _Clock,
) -> None:
    """One session that calls until the clock's end; how it fails is put down to `driven`."""
    opening, cycle = messages
    try:
        try:
            await stream.write(opening)
            await stream.read()
        finally:
            await ready.wait()
        await asyncio.sleep(random.uniform(0.0, clock.period))  # noqa: S311 - not all at once
        for sequence, (tool, arguments) in enumerate(itertools.cycle(cycle)):
            if time.perf_counter() >= clock.end:
                break
            call = tool_pb2.Call(sequence=sequence, tool=tool, arguments_json=arguments)
            begun = time.perf_counter()
            await stream.write(tool_pb2.SessionRequest(call=call).SerializeToString())
            answer = await stream.read()
            if not isinstance(answer, bytes):  # the server has ended the session
                driven.errors[(await stream.code()).name] += 1
                return
            result = tool_pb2.SessionResponse.FromString(answer).result.result
            if result.ok:
                driven.latencies.append(time.perf_counter() - begun)
            else:
                driven.errors[result.error_code] += 1
            if (early := begun + clock.period - time.perf_counter()) > 0:
                await asyncio.sleep(early)
        driven.seconds = time.perf_counter()
        await stream.done_writing()
        await stream.read()  # its end, so that the server holds it no more
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the latter from writing too late
        driven.errors[(await stream.code()).name] += 1


async def _knock(open_call: Any, opening: bytes, driven: Driven, end: float) -> None:
    """One that asks for a session until `end`, each time that it is told to."""
    pause = 0.0
    while (begun := time.perf_counter() + pause) < end:
        await asyncio.sleep(pause)
        stream = open_call(timeout=_OPENING_SECONDS)
        try:
            await stream.write(opening)
            await stream.read()
            driven.latencies.append(time.perf_counter() - begun)
            await stream.done_writing()
            await stream.read()
        except grpc.aio.AioRpcError as error:
            driven.refuse(error)
            told = from_rpc_error(error).retry_after
            pause = random.uniform(1.0, 1.5) * (told.total_seconds() if told else 1.0)  # noqa: S311 - jitter


async def _call(channel: grpc.aio.Channel, request: bytes, driven: Driven) -> None:
    """One unary call, put down to `driven`."""
    open_call: Any = channel.unary_unary
    begun = time.perf_counter()
    try:
        await open_call(_CALL)(request, timeout=30)
    except grpc.aio.AioRpcError as error:
        driven.refuse(error)
    else:
        driven.latencies.append(time.perf_counter() - begun)


def _request(task_id: str) -> bytes:
    (tool, arguments), *_ = world.calls(1)
    request = tool_pb2.CallToolRequest(task_id=task_id, tool=tool, arguments_json=arguments)
    return request.SerializeToString()


async def fill(address: str, task_id: str, callers: int, seconds: float) -> Driven:
    """As many unary calls as `callers` make, each as soon as its last is answered."""
    driven, request = Driven(), _request(task_id)
    async with grpc.aio.insecure_channel(address) as channel:
        started = time.perf_counter()

        async def one() -> None:
            while time.perf_counter() < started + seconds:
                await _call(channel, request, driven)

        await asyncio.gather(*(one() for _ in range(callers)))
        driven.seconds = time.perf_counter() - started
    return driven


async def offer(address: str, task_id: str, per_second: float, seconds: float) -> Driven:
    """Unary calls at a fixed rate, whether or not those before are answered."""
    driven, request = Driven(), _request(task_id)
    running: set[asyncio.Task[None]] = set()
    async with grpc.aio.insecure_channel(address) as channel:
        started = time.perf_counter()
        sent = 0
        while (now := time.perf_counter()) < started + seconds:
            due = int((now - started) * per_second)
            for _ in range(due - sent):
                task = asyncio.create_task(_call(channel, request, driven))
                running.add(task)
                task.add_done_callback(running.discard)
            sent = max(sent, due)
            await asyncio.sleep(0.005)
        await asyncio.gather(*running)
        driven.seconds = time.perf_counter() - started
    return driven
