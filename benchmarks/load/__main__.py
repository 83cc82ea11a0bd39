"""`python -m benchmarks.load`: sessions for minutes, twice the capacity, and OpenEnv beside them.

Server processes share one core and this process drives them from the other. Exit code 1 where a
goal was missed. Figures go to benchmarks/load.json, in the form of benchmarks/results.json.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self

import psutil
import typer
from rich.console import Console

from benchmarks import echo, servers
from benchmarks.cluster import Cluster
from benchmarks.load.driving import Driven, fill, hold_sessions, offer
from benchmarks.results import Result, show, write
from benchmarks.streams import drive
from benchmarks.tool_calls import import_world

PATH = Path(__file__).parent.parent / "load.json"
PEER = Path(__file__).parent
IN_FLIGHT = 128
"""Calls of one caller that the overloaded server runs at once; half of them fill it."""

_ECHO_BYTES = 128


@dataclass
class Watch:
    """Memory and processor time of our processes that serve, sampled once a second."""

    processes: Sequence[psutil.Process]
    megabytes: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def __enter__(self) -> Self:
        self._done = threading.Event()
        self._before = self._cpu()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.cpu_seconds = self._cpu() - self._before

    def growth(self) -> float:
        """MB that the last tenth of the samples has above the second tenth."""
        tenth = max(1, len(self.megabytes) // 10)
        begin, end = self.megabytes[tenth : 2 * tenth], self.megabytes[-tenth:]
        return sum(end) / len(end) - sum(begin) / max(1, len(begin)) if begin else 0.0

    def _cpu(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)

    def _sample(self) -> None:
        while not self._done.wait(1.0):
            used = sum(process.memory_info().rss for process in self.processes)
            self.megabytes.append(used / 1e6)


@dataclass(frozen=True)
class Held:
    """A phase of sessions: what came of it, and what it took."""

    driven: Driven
    watch: Watch

    @property
    def per_core(self) -> float:
        """Results a second of the servers' processor time."""
        return self.driven.answered / self.watch.cpu_seconds


def hold(folder: Path, sessions: int, seconds: float) -> Held:
    """Sessions against the embedded system: all services in one process, on SQLite."""
    with servers.services("all", folder) as (process, address):
        server = psutil.Process(process.pid)
        task_id = asyncio.run(import_world(address))
        return _hold([server], address, task_id, sessions, seconds)


def hold_replicas(folder: Path, sessions: int, seconds: float) -> Held:
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
    asyncio.run(hold_sessions(target, task_id, sessions, 2.0))  # to its working size
    with Watch(processes) as watch:
        driven = asyncio.run(hold_sessions(target, task_id, sessions, seconds))
    return Held(driven, watch)


def overload(folder: Path, seconds: float) -> tuple[Driven, Driven, Driven]:
    """Unary calls at the server's capacity, at twice that, and at half of it afterwards."""
    limit = {"SYNTHAGENT_CALLER_MAX_IN_FLIGHT": str(IN_FLIGHT)}
    with servers.services("all", folder, environment=limit) as (_, address):
        task_id = asyncio.run(import_world(address))
        asyncio.run(fill(address, task_id, 8, 2.0))  # to its working size
        full = asyncio.run(fill(address, task_id, IN_FLIGHT // 2, 10.0))
        twice = asyncio.run(offer(address, task_id, 2 * full.per_second, seconds))
        after = asyncio.run(offer(address, task_id, full.per_second / 2, 10.0))
    return full, twice, after


def peer(python: Path, sessions: int, seconds: float) -> float:
    """Steps a second of processor time of OpenEnv's no-op environment."""
    with servers.pinned_program([str(python), str(PEER / "openenv_server.py"), str(sessions)]) as (
        process,
        port,
    ):
        server = psutil.Process(process.pid)
        with Watch([server]) as watch:
            said = subprocess.run(  # noqa: S603 - the peer's own environment
                [
                    str(python),
                    str(PEER / "openenv_client.py"),
                    port.strip(),
                    str(sessions),
                    str(seconds),
                ],
                check=True,
                capture_output=True,
                text=True,
            )
        told = json.loads(said.stdout)
    if told["errors"]:
        raise RuntimeError(f"the peer answered {told['errors']} steps with errors")
    return float(told["steps"] / watch.cpu_seconds)


def echo_per_core() -> float:
    """Messages a second of processor time of a bare grpc.aio server: what no call can go below."""
    messages = [bytes(_ECHO_BYTES)] * 2000
    with servers.pinned(["benchmarks.echo", str(_ECHO_BYTES)]) as (process, port):
        with Watch([psutil.Process(process.pid)]) as watch:
            asyncio.run(drive(f"127.0.0.1:{int(port)}", echo.METHOD, [messages] * 64, warmup=0))
        return 64 * len(messages) / watch.cpu_seconds


def _of_sessions(name: str, held: Held, sessions: int) -> list[Result]:
    driven = held.driven
    errors = sum(driven.errors.values())
    growth = held.watch.growth()
    name = f"load_{name}_{sessions}_sessions"
    return [
        Result(name, driven.per_second, "calls/s", "sessions", sessions),
        Result(f"{name}_p50", driven.quantile(0.5) * 1e3, "ms", "seconds of load", driven.seconds),
        Result(f"{name}_p99", driven.quantile(0.99) * 1e3, "ms", "seconds of load", driven.seconds),
        Result(
            f"{name}_errors", errors, "calls", "calls answered", driven.answered, 0.0,
            at_least=False,
        ),
        Result(
            f"{name}_memory_growth", growth, "MB", "memory at the end, MB",
            held.watch.megabytes[-1], 0.05, at_least=False,
        ),
    ]  # fmt: skip


def _of_overload(full: Driven, twice: Driven, after: Driven) -> list[Result]:
    # The caller's limit refuses with RetryInfo; what waits beyond what a server will ever take,
    # gRPC's core refuses before the server has to touch it. SynthAgentClient tries both again.
    refused = twice.errors["RESOURCE_EXHAUSTED"] + twice.errors["CANCELLED"]
    other = sum(twice.errors.values()) - refused
    offered = twice.answered + refused + other
    return [
        Result("load_overload_twice_answered", twice.per_second, "calls/s", "at capacity",
               full.per_second, 0.8),
        Result("load_overload_twice_p99", twice.quantile(0.99) * 1e3, "ms", "at capacity",
               full.quantile(0.99) * 1e3),
        Result("load_overload_twice_refused", refused, "calls", "offered", offered),
        Result("load_overload_twice_other_errors", other, "calls", "offered", offered, 0.0,
               at_least=False),
        Result("load_overload_after_errors", sum(after.errors.values()), "calls",
               "answered at half the capacity", after.answered, 0.0, at_least=False),
    ]  # fmt: skip


def main(
    sessions: Annotated[int, typer.Option(min=1, help="Sessions at once.")] = 1000,
    seconds: Annotated[float, typer.Option(min=5, help="How long each load lasts.")] = 300,
    peer_python: Annotated[
        Path, typer.Option(help="Python with OpenEnv.", exists=True, dir_okay=False)
    ] = Path(".venv-openenv/bin/python"),
    output: Annotated[Path, typer.Option(help="Where figures are written.")] = PATH,
) -> None:
    """Loads the embedded system and three replicas, overloads it, and drives OpenEnv beside."""
    console = Console()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in ("one", "embedded", "three_replicas", "overload"):
            (folder / each).mkdir()
        with console.status("the peer, before"):
            before = peer(peer_python, 64, 20)
        with console.status("64 sessions, for the comparison"):
            ours = hold(folder / "one", 64, 20).per_core
        with console.status("the peer, after"):
            after_peer = peer(peer_python, 64, 20)
        results.append(
            Result("load_steps_per_core_second", ours, "calls/s/core",
                   "OpenEnv 0.10 no-op environment over WebSocket, 64 sessions",
                   (before + after_peer) / 2, 2.0)
        )  # fmt: skip
        with console.status("a bare echo"):
            results.append(
                Result("load_echo_per_core_second", echo_per_core(), "messages/s/core",
                       "OpenEnv 0.10 no-op environment over WebSocket, 64 sessions",
                       (before + after_peer) / 2)
            )  # fmt: skip
        for label, holds in (("embedded", hold), ("three_replicas", hold_replicas)):
            with console.status(f"{label}: {sessions} sessions for {seconds:.0f} s"):
                held = holds(folder / label, sessions, seconds)
            results += _of_sessions(label, held, sessions)
        with console.status("twice the capacity"):
            results += _of_overload(*overload(folder / "overload", min(60.0, seconds)))
    show(console, results)
    write(results, output)
    console.print(f"Written to {output}, {time.strftime('%Y-%m-%d')}.")
    if any(result.reached is False for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
