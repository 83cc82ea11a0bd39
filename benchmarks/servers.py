"""Server processes pinned to one core, while this process drives them from the other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SERVER_CORE = {0}
CLIENT_CORE = {1}


def cores_differ() -> bool:
    """Whether this machine can give server and client a core each."""
    return os.sched_getaffinity(0) >= SERVER_CORE | CLIENT_CORE


@contextlib.contextmanager
def pinned(
    arguments: Sequence[str], **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs `python -m ...` on the server's core; yields the process and its first line of output.

    This process moves to the client's core for as long, where the machine has both.
    """
    own = os.sched_getaffinity(0)
    if cores_differ():
        os.sched_setaffinity(0, SERVER_CORE)  # inherited by every thread of the child
    try:
        process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            text=True,
        )
        if cores_differ() or own >= SERVER_CORE | CLIENT_CORE:
            os.sched_setaffinity(0, CLIENT_CORE & own or own)
        output = process.stdout
        line = output.readline() if output else ""
        if not line:
            raise RuntimeError(f"{' '.join(arguments)} ended before it was ready")
        yield process, line
    finally:
        os.sched_setaffinity(0, own)
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def services(name: str, folder: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs `python -m services NAME` on a database in `folder`; yields the process and address."""
    with pinned(
        ["services", name, "--port", str(port), "--metrics-port", "0"],
        SYNTHAGENT_DATABASE_URL=f"sqlite:///{folder}/benchmark.db",
        SYNTHAGENT_LOG_LEVEL="warning",
    ) as (process, line):
        yield process, json.loads(line)["address"]
