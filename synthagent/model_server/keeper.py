"""Keeps a command and its family: `python -m synthagent.model_server.keeper COMMAND ...`.

Standard input is a lifeline. When it ends, by intent or because who held it was killed, the command
gets SIGTERM and then SIGKILL. The command has a process group of its own, and when it has ended,
however it ended, the rest of the group is killed. Exits as the command did, with 128 and the number
of the signal where one ended it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

_END_SECONDS = 20.0


def main(command: list[str]) -> int:
    """Runs the command to its end; returns the exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603 - the supervisor's own command, no shell
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=_end_with_lifeline, args=(child,), daemon=True).start()
    code = child.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _end_with_lifeline(child: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    child.terminate()
    try:
        child.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
