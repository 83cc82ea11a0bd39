"""Load on ToolMock: sessions that call for as long as it lasts, and calls that come regardless.

Sessions go as those of `SynthAgentClient` do, many on a stream; messages of unary calls are
serialized before the clock starts.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.rpc import code_pb2

from benchmarks import world
from synthagent.api.v1 import tool_pb2, tool_pb2_grpc
from synthagent.channel import open_channel
from synthagent.errors import SynthAgentError
from synthagent.failures import from_rpc_error
from synthagent.session_streams import Lane, SessionStreams
from synthagent.statuses import to_status

_CALL = "/synthagent.api.v1.ToolMock/CallTool"
_CYCLE = 4
"""Calls after which the world is as it was."""

_OPENING_SECONDS = 60.0
"""Longest that sessions may take to open, all at once."""


@dataclass
class Driven:
    """What came of a load. Latencies in seconds; `errors` counts by status or error code."""

    seconds: float = 0.0
    latencies: array[float] = field(default_factory=lambda: array("d"))
    errors: Counter[str] = field(default_factory=Counter)
    told_when: int = 0
    """Refusals that said when to come again."""

    def refuse(self, code: str, error: SynthAgentError) -> None:
        """Counts a call or session that ended with a status."""
        self.errors[code] += 1
        self.told_when += error.retry_after is not None

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


@dataclass
class _Clock:
    """When sessions end, and the seconds from call to call of each."""

    end: float
    period: float


async def hold_sessions(
    target: str,
    task_id: str,
    sessions: int,
    seconds: float,
    *,
    began: Callable[[], object] | None = None,
) -> Driven:
    """`sessions` at once on a gRPC target; each calls again as soon as it is answered.

    `began` is called when all are open.
    """
    held, _ = await crowd(target, task_id, sessions, seconds, more=0, period=0.0, began=began)
    return held


async def crowd(
    target: str,
    task_id: str,
    sessions: int,
    seconds: float,
    *,
    more: int,
    period: float,
    began: Callable[[], object] | None = None,
) -> tuple[Driven, Driven]:
    """The same, while `more` others ask for a session each, and ask again when they are told to.

    Each session calls at most once in `period` seconds. Returns what came of the calls, and of the
    others: those that were let in are "answered".
    """
    held, others = Driven(), Driven()
    opening = tool_pb2.SessionRequest(open=tool_pb2.OpenSession(task_id=task_id))
    ready, clock = asyncio.Barrier(sessions + 1), _Clock(math.inf, period)
    async with _streams(target) as ours, _streams(target) as theirs, asyncio.TaskGroup() as tasks:
        for _ in range(sessions):
            tasks.create_task(_hold(ours.lane(), opening, held, ready, clock))
        async with asyncio.timeout(_OPENING_SECONDS):
            await ready.wait()
        if began is not None:
            began()
        started = time.perf_counter()
        end = started + seconds
        await asyncio.gather(*(_knock(theirs, opening, others, end) for _ in range(more)))
        others.seconds = time.perf_counter() - started
        await asyncio.sleep(seconds - others.seconds)
        clock.end = time.perf_counter()  # so that nobody was let in by a session that ended
    held.seconds = max(held.seconds, clock.end) - started
    return held, others


@asynccontextmanager
async def _streams(target: str) -> AsyncIterator[SessionStreams]:
    """A client's streams to a target."""
    async with open_channel(target) as channel:
        streams = SessionStreams(tool_pb2_grpc.ToolMockStub(channel))
        try:
            yield streams
        finally:
            await streams.close()


async def _hold(
    lane: Lane,
    opening: tool_pb2.SessionRequest,
    driven: Driven,
    ready: asyncio.Barrier,
    clock: _Clock,
) -> None:
    """One session that calls until the clock's end; how it fails is put down to `driven`."""
    try:
        try:
            await lane.ask(opening)
        finally:
            await ready.wait()
        await asyncio.sleep(random.uniform(0.0, clock.period))  # noqa: S311 - not all at once
        for sequence, (tool, arguments) in enumerate(itertools.cycle(world.calls(_CYCLE))):
            begun = time.perf_counter()
            if begun >= clock.end:
                break
            call = tool_pb2.Call(sequence=sequence, tool=tool, arguments_json=arguments)
            answer = await lane.ask(tool_pb2.SessionRequest(call=call))
            result = answer.result.result
            if result.ok:
                driven.latencies.append(time.perf_counter() - begun)
            else:
                driven.errors[result.error_code] += 1
            if (early := begun + clock.period - time.perf_counter()) > 0:
                await asyncio.sleep(early)
        driven.seconds = time.perf_counter()
    except SynthAgentError as error:
        driven.refuse(_status(error), error)
    finally:
        await lane.end()  # so that the server holds it no more


def _status(error: SynthAgentError) -> str:
    """The name of the status that an exception came with."""
    return str(code_pb2.Code.Name(to_status(error).code))


async def _knock(
    streams: SessionStreams, opening: tool_pb2.SessionRequest, driven: Driven, end: float
) -> None:
    """One that asks for a session until `end`, each time that it is told to."""
    pause = 0.0
    while (begun := time.perf_counter() + pause) < end:
        await asyncio.sleep(pause)
        lane = streams.lane()
        try:
            await lane.ask(opening)
            driven.latencies.append(time.perf_counter() - begun)
        except SynthAgentError as error:
            driven.refuse(_status(error), error)
            told = error.retry_after
            pause = random.uniform(1.0, 1.5) * (told.total_seconds() if told else 1.0)  # noqa: S311 - jitter
        finally:
            await lane.end()


async def _call(channel: grpc.aio.Channel, request: bytes, driven: Driven) -> None:
    """One unary call, put down to `driven`."""
    open_call: Any = channel.unary_unary
    begun = time.perf_counter()
    try:
        await open_call(_CALL)(request, timeout=30)
    except grpc.aio.AioRpcError as error:
        driven.refuse(error.code().name, from_rpc_error(error))
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
