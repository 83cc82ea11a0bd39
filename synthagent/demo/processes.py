"""The processes that a demo starts: all five services in one, and the trainer in another.

Each is a plain `python -m ...` with its log in the run folder, ended with SIGTERM and waited for,
so that a demo that fails or is interrupted leaves nothing running.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from synthagent.embedded import SHARED_MACHINE, ProcessFailed, services, tail

__all__ = ["SHARED_MACHINE", "ProcessFailed", "run", "services", "tail"]


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
