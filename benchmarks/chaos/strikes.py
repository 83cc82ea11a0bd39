"""What each kind of fault does to the system, and how it is undone.

`STRIKES` is the registry: a coroutine function for each kind that strikes, waits as long as the
fault lasts, undoes what an operator or an orchestrator would undo, and returns when what was struck
works again.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
from collections.abc import Mapping
from functools import partial
from typing import Any

import grpc
import psutil

from benchmarks.chaos import requests
from benchmarks.chaos.recovery import LONGEST_SECONDS, NotRecovered
from benchmarks.chaos.schedule import DATABASE, WORKER, Fault, FaultKind
from benchmarks.chaos.system import Strike, System
from benchmarks.cluster import PORT, Replica
from synthagent.embedded import ProcessFailed
from synthagent.postgresql_server import PostgresqlFailed

_LIVENESS_SECONDS = 10.0
"""A replica that answers nothing for so long is killed, as Kubernetes would by its probe."""

_HOUR = 3600
_PAUSE_SECONDS = 0.5  # before a replica that ended at once is started again
_LARGE_BYTES = 15 * 2**20  # of a message: just below the most that servers take
_LARGE_AT_ONCE = 16


async def kill(system: System, fault: Fault, chance: random.Random) -> None:
    """SIGKILL; what died is started again in its place."""
    if fault.target == DATABASE:
        async with system.database():
            await _restart_database(system, signal.SIGKILL)
            await system.probes.database()
        return
    service = "task_synthesis" if fault.target == WORKER else fault.target
    async with system.replica(service, chance) as replica:
        if fault.target == WORKER and (workers := psutil.Process(replica.pid).children()):
            chance.choice(workers).kill()
            await system.probes.replica(replica)
        else:
            system.cluster.kill(replica)
            await _start_again(system, replica)


async def freeze(system: System, fault: Fault, chance: random.Random) -> None:
    """SIGSTOP, and SIGCONT when the time is over."""
    async with system.replica(fault.target, chance) as replica:
        system.cluster.freeze(replica)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            system.cluster.thaw(replica)
        await system.probes.replica(replica)


async def database_restart(system: System, fault: Fault, chance: random.Random) -> None:
    """A fast shutdown or an immediate one, and a start when the time is over."""
    number = chance.choice((signal.SIGINT, signal.SIGQUIT))
    async with system.database():
        await _restart_database(system, number, fault.seconds)
        await system.probes.database()


async def connection_reset(system: System, fault: Fault, chance: random.Random) -> None:
    """Resets what is open, and what comes until the time is over."""
    async with system.database():
        system.proxy.set(reset=True)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            system.proxy.set(reset=False)
        await system.probes.database()


async def connection_delay(system: System, fault: Fault, chance: random.Random) -> None:
    """Each packet comes 20 to 300 ms late."""
    async with system.database():
        system.proxy.set(delay=chance.uniform(0.02, 0.3))
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            system.proxy.set(delay=0.0)
        await system.probes.database()


async def disk_full(system: System, fault: Fault, chance: random.Random) -> None:
    """Takes every byte of the database's file system, again and again, and gives them back.

    A database that gave up meanwhile is started again, as its operator would.
    """
    if system.disk is None:
        raise RuntimeError("there is no disk to fill")
    async with system.database():
        end = asyncio.get_running_loop().time() + fault.seconds
        try:
            while asyncio.get_running_loop().time() < end:
                system.disk.fill()
                await asyncio.sleep(0.05)
        finally:
            system.disk.free()
        server = system.cluster.postgresql
        if server.process is None or server.process.poll() is not None:
            system.events.append("the database ended on a full disk and was started again")
            await _restart_database(system, signal.SIGINT)
        await system.probes.database()


async def clock_jump(system: System, fault: Fault, chance: random.Random) -> None:
    """The clock of a running replica is up to two hours off, then right again."""
    async with system.replica(fault.target, chance) as replica:
        system.cluster.jump(replica, chance.choice((-1, 1)) * chance.uniform(0.1, 2.0) * _HOUR)
        await asyncio.sleep(fault.seconds)
        system.cluster.jump(replica, 0.0)
        await system.probes.replica(replica)


async def out_of_memory(system: System, fault: Fault, chance: random.Random) -> None:
    """No more address space than is in use (RLIMIT_AS), while large messages come.

    Allocations that need more fail, as under a full machine without overcommitment. A replica that
    died of it, or does not answer afterwards, is started again.
    """
    async with system.replica(fault.target, chance) as replica:
        process = psutil.Process(replica.pid)
        _, hard = process.rlimit(resource.RLIMIT_AS)
        process.rlimit(resource.RLIMIT_AS, (process.memory_info().vms, hard))
        await press(replica, fault.seconds, _LARGE_AT_ONCE)
        if replica.alive:
            process.rlimit(resource.RLIMIT_AS, (hard, hard))
        if not replica.alive or not await system.probes.alive(replica, _LIVENESS_SECONDS):
            how = "did not answer" if replica.alive else "ended"
            system.events.append(f"{replica.process.name} {how} out of memory; started again")
            await _start_again(system, replica)


async def _restart_database(
    system: System, number: signal.Signals, away_seconds: float = 0.0
) -> None:
    """Ends the database and starts it, again where it does not start, as its operator would.

    After a SIGKILL it does not until the last of its old processes is gone.
    """
    server = system.cluster.postgresql
    start = partial(server.restart, number, away_seconds=away_seconds)
    end = asyncio.get_running_loop().time() + LONGEST_SECONDS
    while True:
        try:
            await asyncio.to_thread(start)
        except PostgresqlFailed as failed:
            if asyncio.get_running_loop().time() > end:
                raise NotRecovered(str(failed)) from failed
            await asyncio.sleep(_PAUSE_SECONDS)
            start = partial(server.start)
        else:
            return


async def _start_again(system: System, replica: Replica) -> None:
    """Starts a replica in the place of another, again where it ends at once, as a pod is.

    One that finds no database when it starts ends with a sentence; raises NotRecovered at last.
    """
    end = asyncio.get_running_loop().time() + LONGEST_SECONDS
    while True:
        try:
            again = await asyncio.to_thread(system.cluster.restart, replica)
        except ProcessFailed as failed:
            if asyncio.get_running_loop().time() > end:
                raise NotRecovered(str(failed)) from failed
            place = (replica.service, replica.number)
            replicas = system.cluster.replicas
            replica = next(each for each in replicas if (each.service, each.number) == place)
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            break
    await system.probes.replica(again)


async def press(replica: Replica, seconds: float, at_once: int) -> None:
    """Sends large messages, which no method can read, until the time or the replica is over."""
    message = os.urandom(_LARGE_BYTES)
    end = asyncio.get_running_loop().time() + seconds
    while (left := end - asyncio.get_running_loop().time()) > 0 and replica.alive:
        async with grpc.aio.insecure_channel(f"{replica.host}:{PORT}") as channel:
            # The stubs know only calls with serializers.
            open_call: Any = channel.unary_unary
            send = open_call("/synthagent.api.v1.TaskSynthesis/ImportTasks")
            calls = [send(message, timeout=left) for _ in range(at_once)]
            await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.1)


STRIKES: Mapping[FaultKind, Strike] = {
    FaultKind.KILL: kill,
    FaultKind.FREEZE: freeze,
    FaultKind.DATABASE_RESTART: database_restart,
    FaultKind.CONNECTION_RESET: connection_reset,
    FaultKind.CONNECTION_DELAY: connection_delay,
    FaultKind.DISK_FULL: disk_full,
    FaultKind.CLOCK_JUMP: clock_jump,
    FaultKind.OUT_OF_MEMORY: out_of_memory,
    FaultKind.DUPLICATE_REQUESTS: requests.duplicate,
    FaultKind.REORDERED_REQUESTS: requests.reorder,
    FaultKind.CORRUPT_IMPORT: requests.corrupt_import,
}
"""What each kind does."""
