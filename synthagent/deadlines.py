"""The deadline of the call being served, for the calls that are made on its behalf.

The server sets it when a call begins; the client never waits longer than it. It lives in a context
variable, so each task of an event loop sees its own, and background work sees none.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

from synthagent.settings import Settings

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


@dataclass(frozen=True, slots=True)
class ModelSeconds:
    """What models may take of a call beside everything else, in seconds."""

    tool: float = 0.0
    user: float = 0.0
    judge: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What the roles of the settings may take; 0 where no model is configured.

        Each question has its role's deadline, and all votes of a judge are asked at once.
        """
        tool, user, judge = (
            role.timeout_seconds if role else 0.0
            for role in (settings.tool, settings.user, settings.judge)
        )
        return cls(
            tool=2 * tool,  # for a match, then for an answer
            user=2 * user,  # a sentence, and once another in its place
            judge=2 * (user + judge),  # audit and votes, and each that named what is not there anew
        )
