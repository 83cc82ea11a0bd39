"""Work in slices: processes that run until they end or the slice does, and go on in the next one.

A `Slice` owns a deadline. What runs under it is asked to stop (SIGINT) a little before, and killed
if it does not; everything it runs must be able to go on from what it left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from synthagent.embedded import SHARED_MACHINE, tail

GRACE_SECONDS = 25.0
"""How long before the end a process is asked to stop."""


class SliceOver(Exception):
    """The slice has ended; the next one goes on."""


class StageFailed(RuntimeError):
    """A process of a stage ended with an error."""


class Slice:
    """One slice of `minutes`; 0 never ends."""

    def __init__(self, minutes: float = 0.0) -> None:
        self._end = time.monotonic() + minutes * 60 if minutes else None

    @property
    def seconds_left(self) -> float:
        """Until processes are asked to stop."""
        return float("inf") if self._end is None else self._end - GRACE_SECONDS - time.monotonic()

    def need(self, seconds: float) -> None:
        """Raises SliceOver where fewer seconds are left."""
        if self.seconds_left < seconds:
            raise SliceOver

    def run(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        accepted: Sequence[int] = (0,),
    ) -> int:
        """Runs a command to its end and returns its exit code; both outputs go to `log`.

        Raises SliceOver where the slice ends first, StageFailed for an exit code that is not
        accepted.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own modules
                list(command),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **SHARED_MACHINE, **(environment or {})},
            )
            try:
                left = self.seconds_left
                code = process.wait(timeout=None if left == float("inf") else max(left, 0.0))
            except subprocess.TimeoutExpired as error:
                raise SliceOver from error
            finally:
                _end(process)
        if code not in accepted:
            raise StageFailed(
                f"{' '.join(command[:4])} ended with exit code {code}; the end of {log}:\n"
                f"{tail(log)}"
            )
        return code


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that still runs, and waits for it."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=GRACE_SECONDS - 10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
