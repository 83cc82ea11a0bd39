"""Several replicas of every service on this machine, as they are deployed, to be killed and added.

A `Cluster` is PostgreSQL, a name server and processes: each replica of a service has an address of
its own in 127.0.0.0/8 (Linux) and the port of all, and the service's name has the addresses of its
replicas, as that of a headless service on Kubernetes has. Processes are forked from one that has
imported everything, so that fifteen of them start in seconds and share what they read only.

Replicas may be killed, frozen, thawed, drained, restarted and added at any time; leaving the
context ends all of them, and the database. Logs stay in the folder.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import time_machine
from dnslib import QTYPE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSLogger, DNSServer

from synthagent.client import SynthAgentClient
from synthagent.embedded import ProcessFailed, tail
from synthagent.postgresql_server import PostgresqlServer
from synthagent.store import upgrade

SERVICES = ("task_synthesis", "tool_mock", "user_simulator", "rubric_judge", "rollout")
PORT = 50051
_READY_SECONDS = 120.0
_END_SECONDS = 30.0
_DOMAIN = "synthagent.test"
_SETTINGS = {
    "migrate": "false",
    "metrics_port": "0",
    "drain_seconds": "5",
    "database_readers": "2",
    # Faults are minutes apart where the defaults apply, and seconds here.
    "keepalive_seconds": "5",
    "keepalive_timeout_seconds": "5",
    "connection_age_seconds": "20",
    "database_statement_seconds": "10",
}


@dataclass
class Replica:
    """One process of a service. `number` and `host` are never given again."""

    service: str
    number: int
    host: str
    process: BaseProcess
    log: Path
    ready: Path
    clock: Path
    """Holds how many seconds its clock is off: see `Cluster.jump`."""
    frozen: bool = False
    said: dict[str, Any] = field(default_factory=dict)
    """The ready line: address, metrics_address, services, pid."""

    @property
    def alive(self) -> bool:
        """Whether the process runs or is frozen."""
        return self.process.is_alive()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self.process.pid is not None  # noqa: S101 - set when it was started
        return self.process.pid


class NameServer(BaseResolver):  # type: ignore[misc]  # dnslib has no types
    """Answers with the addresses that a name has now."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[str]] = {}
        self._server = DNSServer(
            self, address="127.0.0.1", port=0, logger=DNSLogger("-request,-reply,-truncated,-error")
        )

    def start(self) -> str:
        """Answers from a thread of its own; returns host:port."""
        self._server.start_thread()
        return f"127.0.0.1:{self._server.server.server_address[1]}"

    def stop(self) -> None:
        """Closes the port."""
        self._server.stop()
        self._server.server.server_close()

    def resolve(self, request: DNSRecord, _handler: object) -> DNSRecord:
        """The answer, valid for a second."""
        reply = request.reply()
        if request.q.qtype == QTYPE.A:
            for host in self.hosts.get(str(request.q.qname).rstrip("."), ()):
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(host), ttl=1))
        return reply


class Cluster:
    """PostgreSQL and `replicas` of each service. A context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 3,
        settings: Mapping[str, str] | None = None,
        services: Sequence[str] = SERVICES,
        postgresql: PostgresqlServer | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts nothing yet. `settings` by name, for every process; logs go to `folder`.

        `postgresql` is a server that is not started yet; the setting database_url lets services
        reach it another way. `environment` are more variables of every process.
        """
        self.folder = folder
        self.postgresql = postgresql or PostgresqlServer(settings=("max_connections=400",))
        self.replicas: list[Replica] = []
        """All that were ever started and not replaced, dead ones included."""
        self.started: list[int] = []
        """Process numbers of all that were ever started."""
        self._count = replicas
        self._services = tuple(services)
        self._settings = {**_SETTINGS, **(settings or {})}
        self._variables = dict(environment or {})
        self._network = _free_network()
        self._names = NameServer()
        self._name_server = ""
        self._numbers = dict.fromkeys(SERVICES, 0)
        self._fork = multiprocessing.get_context("forkserver")
        modules = [f"services.{service}.servicer" for service in self._services]
        self._fork.set_forkserver_preload([__name__, "services.__main__", *modules])

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.postgresql.start()
            upgrade(self.database_url)
            self._name_server = self._names.start()
            started = [self._start(name) for name in self._services for _ in range(self._count)]
            for replica in started:
                self._await_ready(replica)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends everything: the services in good order, then the database."""
        for replica in self.replicas:
            if replica.alive:
                self.thaw(replica)
                replica.process.terminate()
        end = time.monotonic() + _END_SECONDS
        for replica in self.replicas:
            replica.process.join(max(0.1, end - time.monotonic()))
            if replica.alive:
                replica.process.kill()
                replica.process.join()
        if self._name_server:
            self._names.stop()
        self.postgresql.stop()

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database that all share."""
        return self.postgresql.url()

    def target(self, service: str) -> str:
        """The gRPC target that stands for all replicas of a service."""
        return f"dns://{self._name_server}/{_name(service)}:{PORT}"

    def client(self, **more: Any) -> SynthAgentClient:
        """A client that balances over all replicas. `more` as SynthAgentClient takes it."""
        targets: dict[str, Any] = {name: self.target(name) for name in self._services}
        return SynthAgentClient(wait_for_ready=True, **{**targets, **more})

    def living(self, service: str | None = None) -> list[Replica]:
        """The replicas that run or are frozen, of one service or of all."""
        return [
            replica
            for replica in self.replicas
            if replica.alive and service in (None, replica.service)
        ]

    def add(self, service: str) -> Replica:
        """One more replica, once it is ready. Raises ProcessFailed."""
        replica = self._start(service)
        self._await_ready(replica)
        return replica

    def kill(self, replica: Replica) -> None:
        """SIGKILL; its address leaves the name."""
        replica.process.kill()
        replica.process.join()
        self._forget(replica)

    def drain(self, replica: Replica) -> None:
        """SIGTERM, and waits: what Kubernetes does to a pod."""
        self._forget(replica)
        replica.process.terminate()
        replica.process.join(_END_SECONDS)

    def restart(self, replica: Replica) -> Replica:
        """Kills the replica where it lives, and starts another in its place, on its address."""
        if replica.alive:
            self.kill(replica)
        self.replicas.remove(replica)
        again = self._start(replica.service, replica)
        self._await_ready(again)
        return again

    def freeze(self, replica: Replica) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        os.kill(replica.pid, signal.SIGSTOP)
        replica.frozen = True

    def thaw(self, replica: Replica) -> None:
        """SIGCONT, where it was frozen."""
        if replica.frozen:
            os.kill(replica.pid, signal.SIGCONT)
            replica.frozen = False

    def jump(self, replica: Replica, seconds: float) -> None:
        """Sets the replica's wall clock so many seconds off; 0 is the machine's time again.

        It is what Python's own clocks of the day tell in that process while it runs; monotonic
        clocks, those of gRPC's core and those of other processes stay.
        """
        replica.clock.write_text(str(seconds))
        os.kill(replica.pid, signal.SIGUSR2)

    def _start(self, service: str, former: Replica | None = None) -> Replica:
        if former:
            number, host = former.number, former.host
        else:
            self._numbers[service] += 1
            number = self._numbers[service]
            host = f"127.{self._network}.{SERVICES.index(service) + 1}.{number}"
        name = f"{service}-{number}"
        log, ready = self.folder / f"{name}.log", self.folder / f"{name}.ready"
        clock = self.folder / f"{name}.clock"
        ready.unlink(missing_ok=True)
        log.touch()
        process = self._fork.Process(
            target=_serve, args=(service, self._environment(host), log, ready, clock), name=name
        )
        process.start()
        self.started.append(process.pid or 0)
        replica = Replica(service, number, host, process, log, ready, clock)
        self.replicas.append(replica)
        return replica

    def _environment(self, host: str) -> dict[str, str]:
        chosen = {
            "database_url": self.database_url,
            **self._settings,
            "host": host,
            "port": str(PORT),
            **{f"{service}_address": self.target(service) for service in self._services},
        }
        settings = {f"SYNTHAGENT_{name.upper()}": value for name, value in chosen.items()}
        return {**self._variables, **settings}

    def _await_ready(self, replica: Replica) -> None:
        end = time.monotonic() + _READY_SECONDS
        while not (replica.ready.exists() and replica.ready.read_text().endswith("\n")):
            if not replica.alive or time.monotonic() > end:
                raise ProcessFailed(
                    f"{replica.process.name} is not ready; the end of its log:\n"
                    f"{tail(replica.log)}",
                    replica.process.exitcode,
                )
            time.sleep(0.02)
        replica.said = json.loads(replica.ready.read_text())
        self._names.hosts.setdefault(_name(replica.service), []).append(replica.host)

    def _forget(self, replica: Replica) -> None:
        with contextlib.suppress(ValueError):
            self._names.hosts[_name(replica.service)].remove(replica.host)


def _name(service: str) -> str:
    return f"{service.replace('_', '-')}.{_DOMAIN}"


def _free_network() -> int:
    """The second byte of addresses that no other cluster on this machine uses."""
    for network in _shuffled(range(1, 255)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((f"127.{network}.1.1", PORT))
            return network
    raise ProcessFailed("every network of 127.0.0.0/8 is in use")


def _shuffled(numbers: range) -> Iterator[int]:
    yield from random.SystemRandom().sample(numbers, len(numbers))


def _serve(
    service: str, environment: Mapping[str, str], log: Path, ready: Path, clock: Path
) -> None:
    """What a forked process does: `python -m services SERVICE`, with its own log and ready file."""
    from services.__main__ import ServiceName, main  # noqa: PLC0415 - in the forked process only

    for name in [name for name in os.environ if name.startswith("SYNTHAGENT_")]:
        del os.environ[name]
    os.environ.update(environment)
    tempfile.tempdir = None  # the environment may name another
    errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, sys.stderr.fileno())
    sys.stdout = ready.open("w")
    os.setsid()  # a Ctrl-C reaches the owner of the cluster, who ends it in good order
    signal.signal(signal.SIGUSR2, partial(_set_clock, clock))
    main(ServiceName(service))


_travels: list[time_machine.travel] = []
"""The one that this process is on, if any."""


def _set_clock(clock: Path, _number: int, _frame: FrameType | None) -> None:
    while _travels:
        _travels.pop().stop()
    seconds = float(clock.read_text())
    if seconds:
        _travels.append(time_machine.travel(time.time() + seconds, tick=True))
        _travels[0].start()
