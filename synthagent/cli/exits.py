"""What a command's exit code says."""

from __future__ import annotations

from enum import IntEnum

from synthagent.embedded import ProcessFailed
from synthagent.errors import BackendUnavailable, InvalidInput, LimitExceeded, SynthAgentError

_BAD_SETTINGS = 2  # of `python -m services`


class ExitCode(IntEnum):
    """How a command ended. Each is told in --help."""

    DONE = 0
    PARTLY = 1
    USAGE = 2
    UNAVAILABLE = 3
    REFUSED = 4
    INTERRUPTED = 130


EPILOG = (
    "Exit codes: 0 everything was done; 1 something was rejected, failed or is INVALID; "
    "2 arguments, input or settings do not fit; 3 no server answers, it could not be started, or "
    "one that it needs (a model, the database) is unavailable; 4 the server refused (not found, "
    "taken, not configured); 130 interrupted."
)


def exit_code(error: SynthAgentError | ProcessFailed) -> ExitCode:
    """The exit code for an error."""
    match error:
        case ProcessFailed():
            return ExitCode.USAGE if error.code == _BAD_SETTINGS else ExitCode.UNAVAILABLE
        case InvalidInput():
            return ExitCode.USAGE
        case BackendUnavailable():
            return ExitCode.UNAVAILABLE
        case LimitExceeded():
            return ExitCode.PARTLY
        case _:
            return ExitCode.REFUSED
