"""The processes that a demo starts: all five services in one, and the trainer in another.

Each is a plain `python -m ...` with its log in the run folder, ended with SIGTERM and waited for,
so that a demo that fails or is interrupted leaves nothing running.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SHARED_MACHINE = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
}
"""Services and trainer take turns on the same cores and share the memory: a waiting thread must not
spin, and tensors that are freed go back to the system instead of staying as holes in the heap."""


class ProcessFailed(RuntimeError):
    """A process ended that should not have, or with an exit code other than 0."""


@contextlib.contextmanager
def services(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Runs `python -m services all` on free ports; yields its gRPC address.

    Raises ProcessFailed, with the end of the log, where it does not become ready.
    """
    log = folder / "services.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "services", "all", "--port", "0", "--metrics-port", "0"],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **SHARED_MACHINE, **environment},
            text=True,
        )
        try:
            yield _ready_address(process, log)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _ready_address(process: subprocess.Popen[str], log: Path) -> str:
    output = process.stdout
    line = output.readline() if output else ""
    if not line:
        process.wait()
        raise ProcessFailed(
            f"the services ended with exit code {process.returncode}; the end of {log}:\n"
            f"{tail(log)}"
        )
    return str(json.loads(line)["address"])


def run(module_and_arguments: Sequence[str], log: Path) -> None:
    """Runs `python -m MODULE ...` to its end, with its progress on this terminal.

    Standard error goes to `log`. Raises ProcessFailed, with the end of that log.
    """
    with log.open("wb") as errors:
        command = [sys.executable, "-m", *module_and_arguments]
        process = subprocess.Popen(  # noqa: S603 - our own modules
            command, stderr=errors, env={**os.environ, **SHARED_MACHINE}
        )
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code != 0:
        raise ProcessFailed(
            f"{module_and_arguments[0]} ended with exit code {code}; the end of {log}:\n{tail(log)}"
        )


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
