"""All five services in a process of their own, for as long as somebody needs them.

`python -m services all` is started on free ports, with its log in a folder, and ended with SIGTERM
and waited for, so that a command that fails or is interrupted leaves nothing running. The process
is in a session of its own: a Ctrl-C at the terminal reaches its owner, who ends it in good order.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

SHARED_MACHINE = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
}
"""Services and trainer take turns on the same cores and share the memory: a waiting thread must not
spin, and tensors that are freed go back to the system instead of staying as holes in the heap."""

_END_SECONDS = 30


class ProcessFailed(RuntimeError):
    """A process ended that should not have, or with an exit code other than 0."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


@contextlib.contextmanager
def services(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Runs the services on free ports; yields their gRPC address.

    `environment` is added to this process's own. Raises ProcessFailed, with the end of the log
    `services.log` in `folder`, where they do not become ready.
    """
    log = folder / "services.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "services", "all", "--port", "0", "--metrics-port", "0"],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **SHARED_MACHINE, **environment},
            text=True,
            start_new_session=True,
        )
        try:
            yield _ready_address(process, log)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_END_SECONDS)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                process.kill()  # interrupted once more: it need not drain
                process.communicate()


def _ready_address(process: subprocess.Popen[str], log: Path) -> str:
    output = process.stdout
    line = output.readline() if output else ""
    if not line:
        process.wait()
        raise ProcessFailed(
            f"the services ended with exit code {process.returncode}; the end of {log}:\n"
            f"{tail(log)}",
            process.returncode,
        )
    return str(json.loads(line)["address"])


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
