"""Tool calls per second over the session stream, against a bare echo of the same sizes.

Both servers are driven by the same client of raw bytes. Rounds alternate, and the round with the
median ratio counts, so that a drift of the machine's speed strikes both alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from benchmarks import echo, servers, world
from benchmarks.results import Result
from benchmarks.streams import StreamTiming, drive
from synthagent.api.v1 import tool_pb2
from synthagent.client import SynthAgentClient

METHOD = "/synthagent.api.v1.ToolMock/Session"
ROUNDS = 3
CALLS = 25_600
"""Timed calls of a round, over all sessions."""


def requests(task_id: str, made: Iterable[tuple[str, str]]) -> list[bytes]:
    """One session's messages: the open, then calls of (tool, arguments)."""
    opening = tool_pb2.SessionRequest(open=tool_pb2.OpenSession(task_id=task_id))
    calls = [
        tool_pb2.SessionRequest(
            call=tool_pb2.Call(sequence=sequence, tool=tool, arguments_json=arguments)
        )
        for sequence, (tool, arguments) in enumerate(made)
    ]
    return [message.SerializeToString() for message in (opening, *calls)]


def check(timing: StreamTiming) -> None:
    """Raises RuntimeError where a session's last call failed."""
    for response in timing.last_responses:
        if not tool_pb2.SessionResponse.FromString(response).result.result.ok:
            raise RuntimeError("a timed call failed; the figure would say nothing")


async def _response_size(address: str, messages: list[bytes]) -> int:
    """Mean bytes of a response over one cycle of calls."""
    sizes = []
    for end in range(2, 6):
        timing = await drive(address, METHOD, [messages[:end]], warmup=1)
        sizes.append(len(timing.last_responses[0]))
    return round(sum(sizes) / len(sizes))


async def import_world(address: str) -> str:
    """Stores the benchmark's task; returns its identifier."""
    task = world.stockroom()
    async with SynthAgentClient(address) as client:
        response = await client.import_tasks("benchmark", [task])
    if response.rejected:
        raise RuntimeError(f"the benchmark's task was rejected: {response.rejected[0].reason}")
    return task.task_id


def measure(folder: Path) -> list[Result]:
    """Throughput at 64 and 256 sessions, and latency percentiles."""
    results: list[Result] = []
    with servers.services("all", folder) as (_, address):
        task_id = asyncio.run(import_world(address))
        size = asyncio.run(_response_size(address, requests(task_id, world.calls(8))))
        with servers.pinned(["benchmarks.echo", str(size)]) as (_, port):
            for sessions in (64, 256):
                messages = requests(task_id, world.calls(CALLS // sessions + 4))
                rounds = []
                for _ in range(ROUNDS):
                    reference = asyncio.run(
                        drive(
                            f"127.0.0.1:{int(port)}", echo.METHOD, [messages] * sessions, warmup=5
                        )
                    )
                    timing = asyncio.run(drive(address, METHOD, [messages] * sessions, warmup=5))
                    check(timing)
                    rounds.append((timing.per_second / reference.per_second, timing, reference))
                rounds.sort(key=lambda item: item[0])
                _, timing, reference = rounds[ROUNDS // 2]
                results += _rows(sessions, timing, reference)
    return results


def _rows(sessions: int, timing: StreamTiming, reference: StreamTiming) -> list[Result]:
    what = "bare grpc.aio bidirectional echo"
    name = f"tool_calls_{sessions}_sessions"
    return [
        Result(name, timing.per_second, "calls/s", what, reference.per_second, 0.5),
        Result(f"{name}_p50", timing.p50 * 1e3, "ms", what, reference.p50 * 1e3),
        Result(f"{name}_p99", timing.p99 * 1e3, "ms", what, reference.p99 * 1e3),
    ]
