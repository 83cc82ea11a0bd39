"""The phases of `make load`: each starts its servers, loads them, and returns what came of it.

Servers share one core and this process drives them from the other. Everything that a phase started
has ended when it returns.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import echo, servers
from benchmarks.cluster import Cluster
from benchmarks.load.driving import Driven, crowd, fill, hold_sessions, offer
from benchmarks.load.watch import Watch
from benchmarks.streams import drive
from benchmarks.tool_calls import import_world

_PEER = Path(__file__).parent
_WARMUP_SECONDS = 2.0
_FULL_SECONDS = 10.0
_ECHO_BYTES = 128
_ECHO_MESSAGES = 2000

IN_FLIGHT = 128
"""Calls of one caller that the overloaded server runs at once; half of them fill it."""


@dataclass(frozen=True)
class Held:
    """A phase of sessions: what came of it, and what it took."""

    driven: Driven
    watch: Watch

    @property
    def per_core(self) -> float:
        """Results a second of the servers' processor time."""
        return self.driven.answered / self.watch.cpu_seconds


@dataclass(frozen=True)
class Crowded:
    """Sessions at a server's limit: alone, while as many others ask for one, and afterwards."""

    period: float
    """Seconds from call to call of a session."""
    alone: Driven
    held: Driven
    others: Driven
    after: Driven


@dataclass(frozen=True)
class Overloaded:
    """Unary calls: as many as a server can do, twice as many, and half as many afterwards."""

    full: Driven
    twice: Driven
    after: Driven


def embedded(folder: Path, sessions: int, seconds: float) -> Held:
    """Sessions against the embedded system: all services in one process, on SQLite."""
    with servers.services("all", folder) as (process, address):
        task_id = asyncio.run(import_world(address))
        return _hold([psutil.Process(process.pid)], address, task_id, sessions, seconds)


def three_replicas(folder: Path, sessions: int, seconds: float) -> Held:
    """Sessions against three replicas of each service on PostgreSQL, found by their name."""
    with servers.on_server_core() as to_client_core, Cluster(folder, replicas=3) as cluster:
        to_client_core()
        (synthesis, *_) = cluster.living("task_synthesis")
        task_id = asyncio.run(import_world(synthesis.said["address"]))
        replicas = [psutil.Process(replica.pid) for replica in cluster.living()]
        return _hold(replicas, cluster.target("tool_mock"), task_id, sessions, seconds)


def _hold(
    processes: Sequence[psutil.Process],
    target: str,
    task_id: str,
    sessions: int,
    seconds: float,
) -> Held:
    asyncio.run(hold_sessions(target, task_id, sessions, _WARMUP_SECONDS))
    watch = Watch(processes, seconds)
    with ExitStack() as stack:
        driven = asyncio.run(
            hold_sessions(
                target, task_id, sessions, seconds, began=lambda: stack.enter_context(watch)
            )
        )
    return Held(driven, watch)


def twice_the_sessions(folder: Path, sessions: int, seconds: float) -> Crowded:
    """Twice as many sessions as the server may have open at once.

    They make half the calls that it can answer: what more calls do is seen by `twice_the_calls`.
    """
    limit = {"SYNTHAGENT_MAX_SESSIONS": str(sessions)}
    with servers.services("all", folder, environment=limit) as (_, address):
        task_id = asyncio.run(import_world(address))
        full = asyncio.run(hold_sessions(address, task_id, sessions, _FULL_SECONDS))
        period = 2 * sessions / full.per_second

        def held(more: int, seconds: float) -> tuple[Driven, Driven]:
            return asyncio.run(crowd(address, task_id, sessions, seconds, more=more, period=period))

        alone, _ = held(0, _FULL_SECONDS)
        crowded, others = held(sessions, seconds)
        after, _ = held(0, _FULL_SECONDS)
    return Crowded(period, alone, crowded, others, after)


def twice_the_calls(folder: Path, seconds: float) -> Overloaded:
    """Twice as many calls a second as the server can answer."""
    limit = {"SYNTHAGENT_CALLER_MAX_IN_FLIGHT": str(IN_FLIGHT)}
    with servers.services("all", folder, environment=limit) as (_, address):
        task_id = asyncio.run(import_world(address))
        asyncio.run(fill(address, task_id, 8, _WARMUP_SECONDS))
        full = asyncio.run(fill(address, task_id, IN_FLIGHT // 2, _FULL_SECONDS))
        twice = asyncio.run(offer(address, task_id, 2 * full.per_second, seconds))
        after = asyncio.run(offer(address, task_id, full.per_second / 2, _FULL_SECONDS))
    return Overloaded(full, twice, after)


def peer_per_core(python: Path, sessions: int, seconds: float) -> float:
    """Steps a second of processor time of OpenEnv's no-op environment.

    `python` is that of an environment with OpenEnv. Raises RuntimeError where a step failed.
    """
    server = [str(python), str(_PEER / "openenv_server.py"), str(sessions)]
    with servers.pinned_program(server) as (process, port):
        client = [str(python), str(_PEER / "openenv_client.py"), port.strip()]
        with subprocess.Popen(  # noqa: S603 - the peer's own environment
            [*client, str(sessions), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as driver:
            assert driver.stdout is not None  # noqa: S101 - it is a pipe
            if driver.stdout.readline() != "ready\n":
                raise RuntimeError("the peer's sessions did not open")
            with Watch([psutil.Process(process.pid)], seconds) as watch:
                said, _ = driver.communicate("begin\n")
    told = json.loads(said)
    if told["errors"]:
        raise RuntimeError(f"the peer answered {told['errors']} steps with errors")
    return float(told["steps"] / watch.cpu_seconds)


def echo_per_core(sessions: int) -> float:
    """Messages a second of processor time of a bare grpc.aio server, which do nothing."""
    messages = [bytes(_ECHO_BYTES)] * _ECHO_MESSAGES
    with (
        servers.pinned(["benchmarks.echo", str(_ECHO_BYTES)]) as (process, port),
        Watch([psutil.Process(process.pid)], 0.0) as watch,
    ):
        streams = [messages] * sessions
        asyncio.run(drive(f"127.0.0.1:{int(port)}", echo.METHOD, streams, warmup=0))
    return sessions * _ECHO_MESSAGES / watch.cpu_seconds
