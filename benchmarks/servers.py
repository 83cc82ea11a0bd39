"""Server processes pinned to one core, while this process drives them from the other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

SERVER_CORE = {0}
CLIENT_CORE = {1}


def cores_differ() -> bool:
    """Whether this machine can give server and client a core each."""
    return os.sched_getaffinity(0) >= SERVER_CORE | CLIENT_CORE


@contextlib.contextmanager
def pinned(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    beside_client: bool = False,
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs `python -m ...` on the server's core: see `pinned_program`."""
    command = [sys.executable, "-m", *arguments]
    with pinned_program(command, environment, beside_client=beside_client) as started:
        yield started


@contextlib.contextmanager
def on_server_core() -> Iterator[Callable[[], None]]:
    """What is started in the block is on the server's core, until the given function is called.

    That moves this process to the client's core; at the end it has back what it had.
    """
    own = os.sched_getaffinity(0)
    differ = cores_differ()

    def to_client_core() -> None:
        if differ:
            os.sched_setaffinity(0, CLIENT_CORE)

    if differ:
        os.sched_setaffinity(0, SERVER_CORE)
    try:
        yield to_client_core
    finally:
        os.sched_setaffinity(0, own)


@contextlib.contextmanager
def pinned_program(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    beside_client: bool = False,
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs a command on the server's core; yields the process and its first line of output.

    This process moves to the client's core for as long, where the machine has both.
    """
    own = os.sched_getaffinity(0)
    if cores_differ():
        os.sched_setaffinity(
            0, CLIENT_CORE if beside_client else SERVER_CORE
        )  # inherited by every thread of the child
    try:
        process = subprocess.Popen(  # noqa: S603 - our own modules, or a peer's server of ours
            list(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
            text=True,
        )
        if cores_differ() or own >= SERVER_CORE | CLIENT_CORE:
            os.sched_setaffinity(0, CLIENT_CORE & own or own)
        output = process.stdout
        line = output.readline() if output else ""
        if not line:
            raise RuntimeError(f"{' '.join(command)} ended before it was ready")
        yield process, line
    finally:
        os.sched_setaffinity(0, own)
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def database_url(folder: Path) -> str:
    """The URL of the database that `services` uses."""
    return f"sqlite:///{folder}/benchmark.db"


@contextlib.contextmanager
def replay(delay: float = 0.0) -> Iterator[dict[str, str]]:
    """Runs the replay server beside the client; yields the settings of every role that it plays."""
    arguments = ["tests.replay", "--delay", str(delay)]
    with pinned(arguments, beside_client=True) as (_, line):
        ready = json.loads(line)
        yield {
            f"SYNTHAGENT_{role}__{name.upper()}": value
            for role in ("TEACHER", "TOOL", "USER", "JUDGE")
            for name, value in ready.items()
        }


@contextlib.contextmanager
def services(
    name: str, folder: Path, port: int = 0, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs `python -m services NAME` on a database in `folder`; yields the process and address."""
    with pinned(
        ["services", name, "--port", str(port), "--metrics-port", "0"],
        {
            "SYNTHAGENT_DATABASE_URL": database_url(folder),
            "SYNTHAGENT_LOG_LEVEL": "warning",
            **(environment or {}),
        },
    ) as (process, line):
        yield process, json.loads(line)["address"]
