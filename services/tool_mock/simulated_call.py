"""A call of a simulated tool, with what its answer may depend on."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from synthagent.worlds.spec import Task, Tool
from synthagent.worlds.versions import next_version

MAX_PAST_CALLS = 20
"""Calls of the episode, the latest, that an answer may depend on."""

MAX_EARLIER_VERSIONS = 32
"""State versions beside the root, the latest, whose answers may serve as exemplars."""


class PastCall(NamedTuple):
    """A call that was answered before in the same episode, without an error."""

    tool: str
    arguments: str
    result: str
    changed: bool
    """Whether it changed the state."""


@dataclass(frozen=True, slots=True)
class SimulatedCall:
    """One valid call. A snapshot: it is answered although its session may be gone by then."""

    task: Task
    tool: Tool
    arguments: str
    """Canonical JSON."""
    versions: tuple[str, ...]
    """State versions of the episode: the root and the latest, the present one last."""
    past: tuple[PastCall, ...]
    """The earlier calls that the answer may depend on, oldest first."""

    @property
    def version(self) -> str:
        """The state version in which it is made."""
        return self.versions[-1]


class Course:
    """The course of one episode, as far back as an answer may depend on it."""

    __slots__ = ("_changes", "_later", "_past", "_root")

    def __init__(self, root_version: str) -> None:
        self._root = root_version
        self._later: deque[str] = deque(maxlen=MAX_EARLIER_VERSIONS)
        self._past: deque[PastCall] = deque(maxlen=MAX_PAST_CALLS)
        self._changes: deque[PastCall] = deque(maxlen=MAX_PAST_CALLS)

    @property
    def version(self) -> str:
        """The present state version."""
        return self._later[-1] if self._later else self._root

    def add(self, call: PastCall) -> None:
        """Notes a call; one that changed the state leads to the next version."""
        self._past.append(call)
        if call.changed:
            self._changes.append(call)
            self._later.append(next_version(self.version, call.tool, call.arguments))

    def call(self, task: Task, tool: Tool, arguments: str) -> SimulatedCall:
        """A call at this point of the course, with `arguments` as `canonical` gives them.

        A tool that changes the state gets the whole course of the episode; another one only what
        changed the state, because its answer is for every episode with the same changes.
        """
        past = self._past if tool.changes_state else self._changes
        return SimulatedCall(task, tool, arguments, (self._root, *self._later), tuple(past))
