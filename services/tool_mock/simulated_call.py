"""A call of a simulated tool, with what its answer may depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from synthagent.worlds.spec import Task, Tool


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
    """State versions of the episode from the root to the present one."""
    past: tuple[PastCall, ...]

    @property
    def version(self) -> str:
        """The state version in which it is made."""
        return self.versions[-1]
