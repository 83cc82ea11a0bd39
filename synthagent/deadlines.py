"""The deadline of the call being served, for the calls that are made on its behalf.

The server sets it when a call begins; the client never waits longer than it. It lives in a context
variable, so each task of an event loop sees its own, and background work sees none.
"""

from __future__ import annotations

import time
from contextvars import ContextVar

_DEADLINE: ContextVar[float | None] = ContextVar("synthagent_deadline", default=None)


def begin(seconds_left: float | None) -> None:
    """Starts the current task's deadline, in seconds from now; None means without."""
    _DEADLINE.set(None if seconds_left is None else time.monotonic() + seconds_left)


def timeout(default: float | None) -> float | None:
    """Seconds that a call may take: `default`, or what is left of the deadline where that is less.

    None means for ever. Never below zero.
    """
    deadline = _DEADLINE.get()
    if deadline is None:
        return default
    left = max(0.0, deadline - time.monotonic())
    return left if default is None else min(default, left)
