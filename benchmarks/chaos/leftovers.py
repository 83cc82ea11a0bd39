"""What must not stay behind: sessions, connections, files, processes, memory.

The database does not know of these; they are looked up where they would be.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Connection, text

from benchmarks.cluster import SERVICES, Cluster

TOLERANCE = 0.10
"""Growth of the memory of a service's replicas, or of the database, over the baseline that is still
called flat: the allocators of fifteen processes keep some of what a busy minute took, and a leak of
one session, task or log an episode is more than that."""

_GAUGES = ("synthagent_tool_sessions_open", "synthagent_episodes_running")
_STUCK = text(
    "SELECT pid, state, query FROM pg_stat_activity WHERE application_name = 'synthagent' "
    "AND state LIKE 'idle in transaction%' AND state_change < now() - interval '2 seconds'"
)
_PREPARED = text("SELECT count(*) FROM pg_prepared_xacts")


async def orphan_sessions(cluster: Cluster) -> list[str]:
    """Tool sessions, and episodes, that a living replica believes it has."""
    found = []
    for replica in cluster.living():
        page = await asyncio.to_thread(_scrape, str(replica.said["metrics_address"]))
        found += [
            f"{replica.process.name} has {value:.0f} of {name}"
            for name, value in page.items()
            if name in _GAUGES and value
        ]
    return found


def _scrape(address: str) -> dict[str, float]:
    with urlopen(f"http://{address}/metrics", timeout=10) as page:
        families = text_string_to_metric_families(page.read().decode())
        return {sample.name: sample.value for family in families for sample in family.samples}


def stuck_transactions(connection: Connection) -> list[str]:
    """Transactions that nobody goes on with, in PostgreSQL."""
    found = [f"process {row.pid} stands in {row.query!r}" for row in connection.execute(_STUCK)]
    if prepared := connection.execute(_PREPARED).scalar_one():
        found.append(f"{prepared} prepared transactions wait")
    return found


def orphan_files(folder: Path) -> list[str]:
    """What lies in the folder that services were given for what is temporary."""
    return [f"{path} was left behind" for path in sorted(folder.rglob("*"))]


def orphan_processes(ended: Iterable[int]) -> list[str]:
    """Processes of sessions whose leaders, replicas, have ended."""
    leaders, found = set(ended), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) in leaders and process.pid not in leaders:
                found.append(f"process {process.pid} outlived its replica: {process.cmdline()}")
    return found


@dataclass(frozen=True)
class Memory:
    """Resident memory in MB: of each service's replicas together, and of the database."""

    by_service: Mapping[str, float]
    by_process: Mapping[int, float]
    """Of each replica that lives, by process number."""


def memory(cluster: Cluster) -> Memory:
    """The memory now. Of the database what its processes do not share: its cache is fixed."""
    by_process = {replica.pid: _resident(replica.pid) for replica in cluster.living()}
    by_service = {
        service: sum(by_process[replica.pid] for replica in cluster.living(service))
        for service in SERVICES
    }
    by_service["database"] = _private(cluster)
    return Memory(by_service, by_process)


def _resident(number: int) -> float:
    process = psutil.Process(number)
    return sum(each.memory_info().rss for each in (process, *process.children())) / 1e6


def _private(cluster: Cluster) -> float:
    server = cluster.postgresql.process
    if server is None:
        return 0.0
    total = 0
    for process in (parent := psutil.Process(server.pid), *parent.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # a session that has just ended
            total += process.memory_full_info().uss
    return total / 1e6


def grown(before: Memory, after: Memory) -> list[str]:
    """Services, the database, and replicas that survived, that have grown beyond `TOLERANCE`."""
    pairs: Sequence[tuple[str, float, float]] = [
        *((name, before.by_service[name], now) for name, now in after.by_service.items()),
        *(
            (f"replica {number}", before.by_process[number], now)
            for number, now in after.by_process.items()
            if number in before.by_process
        ),
    ]
    return [
        f"{name} has grown from {first:.0f} to {last:.0f} MB"
        for name, first, last in pairs
        if last > first * (1 + TOLERANCE)
    ]
