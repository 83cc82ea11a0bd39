"""How a run that cannot go on ends: one sentence on standard error, and an exit code.

    2  configuration or input wrong     6  disk full or not writable
    3  a service could not be reached   7  another rank ended, or is silent
       or refused                       130  interrupted
    4  checkpoint or data damaged       143  told to end (SIGTERM)
    5  loss, gradient or weights not finite

One sentence a process: where two threads have something to say, the first one speaks.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synthagent.errors import Corrupt, InvalidInput, NotFound, PreconditionFailed, SynthAgentError
from trainer.launch import said_rank

INPUT_WRONG, SERVICE, DAMAGED, DIVERGED, DISK, RANK_LOST = 2, 3, 4, 5, 6, 7
INTERRUPTED, TERMINATED = 130, 143

_speaking = threading.Lock()


class TrainingDiverged(SynthAgentError):
    """A loss, a gradient or a weight is not finite; nothing was saved or published after it."""

    reason = "TRAINING_DIVERGED"


class RankLost(SynthAgentError):
    """Another rank has ended, cannot be reached, or gives no sign of life."""

    reason = "RANK_LOST"


_CODES: tuple[tuple[type[SynthAgentError], int], ...] = (
    (TrainingDiverged, DIVERGED),
    (RankLost, RANK_LOST),
    (Corrupt, DAMAGED),
    (InvalidInput, INPUT_WRONG),
    (NotFound, INPUT_WRONG),
    (PreconditionFailed, INPUT_WRONG),
)


def exit_code(error: SynthAgentError) -> int:
    """The exit code of an error; the module's docstring lists them."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), SERVICE)


def disk_sentence(error: OSError) -> str:
    """What an error of the file system means, and what to do."""
    where = f" {error.filename}" if error.filename else ""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    what = "no room to write" if full else "cannot write or read"
    return (
        f"{what}{where}: {error.strerror or error}. "
        "Make room or choose another run.folder, then start again: it resumes."
    )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError within the name of the file: a failed write knows only its descriptor."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def end(sentence: str, code: int) -> None:
    """Says `sentence` and ends the process at once, from any thread; nothing is cleaned up.

    Does nothing where the process is ending with another sentence already.
    """
    if _speaking.acquire(blocking=False):
        _say(sentence)
        sys.stdout.flush()
        os._exit(code)


@contextmanager
def told(*, at_once: bool = False) -> Iterator[None]:
    """Ends the process where what stops a run is raised within, with its sentence and exit code.

    `at_once` leaves out what a process does at its end: with a rank lost, it may wait for it.
    """
    try:
        yield
    except SynthAgentError as error:
        sentence, code = error.message, exit_code(error)
        cause: BaseException = error
    except OSError as error:
        sentence, code, cause = disk_sentence(error), DISK, error
    except KeyboardInterrupt as error:
        sentence, code = "interrupted; start again to resume from the last checkpoint", INTERRUPTED
        cause = error
    else:
        return
    if at_once:
        end(sentence, code)
    elif _speaking.acquire(blocking=False):
        _say(sentence)
    raise SystemExit(code) from cause


def _say(sentence: str) -> None:
    sys.stderr.write(f"trainer{said_rank()}: {sentence}\n")
    sys.stderr.flush()
