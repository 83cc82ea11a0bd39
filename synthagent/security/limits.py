"""How much of a process one caller may use: calls, streams, sessions, tasks, sizes.

Counted in memory per process: what a caller may use of a service grows with its replicas. Every
refusal is LimitExceeded with the limit's name and value, and the time after which to ask again: as
soon as something may have ended, or, for what only an operator can raise, after a minute.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from synthagent.errors import LimitExceeded
from synthagent.security.access import Role
from synthagent.security.callers import Caller

_PACKAGE = "/synthagent.api.v1"
SESSION = f"{_PACKAGE}.ToolMock/Session"
_MULTIPLEX = f"{_PACKAGE}.ToolMock/MultiplexSessions"
_HOUR_SECONDS = 3600.0
_SOON = timedelta(seconds=1)
_NEVER_BY_ITSELF = timedelta(seconds=60)  # the limit is in a file that an operator may change

Measure = Callable[[Any], int]

_EVENTS: Mapping[str, Measure] = {
    f"{_PACKAGE}.UserSimulator/Reply": lambda request: len(request.events),
    f"{_PACKAGE}.RubricJudge/Judge": lambda request: len(request.events),
    f"{_PACKAGE}.RubricJudge/JudgeCriterion": lambda request: len(request.events),
    f"{_PACKAGE}.ToolMock/CallTool": lambda request: len(request.history) + 1,
    SESSION: lambda request: max(len(request.open.history), _call_number(request)),
    f"{_PACKAGE}.Rollout/CreateRun": lambda request: request.spec.max_turns,
}
_TASKS: Mapping[str, Measure] = {
    f"{_PACKAGE}.TaskSynthesis/SynthesizeTasks": lambda request: request.count,
    f"{_PACKAGE}.TaskSynthesis/ImportTasks": lambda request: len(request.tasks),
}


def _call_number(request: Any) -> int:
    return int(request.call.sequence) + 1 if request.WhichOneof("message") == "call" else 0


@dataclass(slots=True)
class _Usage:
    """What a caller uses now, and the tasks that it asked for within the last hour."""

    in_flight: int = 0
    streams: int = 0
    sessions: int = 0
    tasks: OrderedDict[str, tuple[float, int]] = field(default_factory=OrderedDict)


class Limits:
    """Counts what callers use. Used by one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is in seconds."""
        self._clock = clock
        self._usage: dict[str, _Usage] = {}

    def enter(self, caller: Caller, path: str, *, unary: bool) -> Callable[[], None]:
        """Counts a call that begins; what it returns is called when the call has ended.

        Raises LimitExceeded.
        """
        usage = self._usage.setdefault(caller.name, _Usage())
        taken = ["in_flight"]
        if not unary:
            taken.append("streams")
        if path == SESSION:
            taken.append("sessions")
        if caller.role is not Role.SERVICE:
            for name in taken:
                _within(caller, name, getattr(usage, name) + 1, _SOON)
        for name in taken:
            setattr(usage, name, getattr(usage, name) + 1)

        def leave() -> None:
            for name in taken:
                setattr(usage, name, getattr(usage, name) - 1)

        return leave

    def check(self, caller: Caller, path: str, request: Any) -> None:
        """Whether a message is within the caller's limits. Raises LimitExceeded.

        Messages that carry those of many sessions are not looked at: each session's are.
        """
        if caller.role is Role.SERVICE or path == _MULTIPLEX:
            return
        limits = caller.limits
        if limits.message_bytes is not None:
            _within(caller, "message_bytes", request.ByteSize(), _NEVER_BY_ITSELF)
        if limits.episode_events is not None and path in _EVENTS:
            _within(caller, "episode_events", _EVENTS[path](request), _NEVER_BY_ITSELF)
        if limits.tasks_per_hour is not None and path in _TASKS:
            self._count_tasks(caller, request.request_id, _TASKS[path](request))

    def _count_tasks(self, caller: Caller, request_id: str, count: int) -> None:
        now = self._clock()
        asked = self._usage.setdefault(caller.name, _Usage()).tasks
        while asked and next(iter(asked.values()))[0] <= now - _HOUR_SECONDS:
            asked.popitem(last=False)
        if request_id in asked or count == 0:
            return
        oldest = next(iter(asked.values()))[0] if asked else now
        again = timedelta(seconds=max(1.0, oldest + _HOUR_SECONDS - now))
        _within(caller, "tasks_per_hour", sum(n for _, n in asked.values()) + count, again)
        asked[request_id] = (now, count)


def _within(caller: Caller, name: str, used: int, again: timedelta) -> None:
    limit: int | None = getattr(caller.limits, name)
    if limit is not None and used > limit:
        raise LimitExceeded(
            f"Caller {caller.name!r} may have at most {limit} {name}, and this would be {used}. "
            "Wait or ask for less; an operator can raise the limit.",
            retry_after=again,
            limit=name,
            most=str(limit),
        )
