"""What open sessions cost in memory, and how fast one is reopened after its server was killed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median

import psutil

from benchmarks import servers, world
from benchmarks.results import Result
from benchmarks.tool_calls import import_world
from synthagent.client import SynthAgentClient
from synthagent.tool_session import RecordedCall, ToolSession

SESSIONS = 1000
CALLS = 20
KILLS = 5


async def _hold(address: str, task_id: str, process: psutil.Process) -> float:
    """MB that the sessions add to the server while all are open and have made calls."""
    calls = list(world.calls(4))
    async with SynthAgentClient(address) as client:
        warm = await client.open_session(task_id)
        await warm.close()
        idle = process.memory_info().rss
        held: list[ToolSession] = []
        for _ in range(SESSIONS):
            session = await client.open_session(task_id)
            for tool, arguments in calls:
                await session.call(tool, arguments)
            held.append(session)
        used = process.memory_info().rss - idle
        for session in held:
            await session.close()
    return used / 1e6


def measure_memory(folder: Path) -> list[Result]:
    """Memory of 1,000 open sessions above idle."""
    with servers.services("all", folder) as (process, address):
        task_id = asyncio.run(import_world(address))
        used = asyncio.run(_hold(address, task_id, psutil.Process(process.pid)))
    return [
        Result(
            "memory_1000_sessions", used, "MB", "goal: at most 250 MB", 250.0, 1.0, at_least=False
        )
    ]


async def _make_calls(address: str, task_id: str) -> tuple[list[RecordedCall], str]:
    history = [RecordedCall(tool, arguments) for tool, arguments in world.calls(CALLS)]
    async with SynthAgentClient(address) as client:
        session = await client.open_session(task_id)
        for call in history:
            await session.call(call.tool, call.arguments)
        state_hash = session.state_hash
        await session.close()
    return history, state_hash


async def _reopen(
    address: str, task_id: str, history: list[RecordedCall], state_hash: str
) -> float:
    started = time.perf_counter()
    async with SynthAgentClient(address) as client:
        session = await client.open_session(task_id, history, state_hash)
        await session.call(*next(world.calls(1)))
        seconds = time.perf_counter() - started
        await session.close()
    return seconds


def measure_reopening(folder: Path) -> list[Result]:
    """Time from a restarted server's ready line to the next answer of a 20-call session.

    It covers a new connection, loading and compiling the task, and replaying the calls with the
    check of the state hash. The median of five kills.
    """
    seconds = []
    for _ in range(KILLS):
        with servers.services("all", folder) as (process, address):
            task_id = asyncio.run(import_world(address))
            history, state_hash = asyncio.run(_make_calls(address, task_id))
            process.kill()
            process.wait()
        with servers.services("tool_mock", folder) as (_, address):
            seconds.append(asyncio.run(_reopen(address, task_id, history, state_hash)))
    value = median(seconds) * 1e3
    return [
        Result("reopen_20_calls", value, "ms", "goal: at most 100 ms", 100.0, 1.0, at_least=False)
    ]
