"""How far a request is: the running counts that its stream reports, for both teachers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.task_synthesis.journal import Attempt
from synthagent.llm import Usage

PROGRESS_SECONDS = 0.5
"""Longest silence of the stream."""

NOT_COMPOSED = "compose"
"""Stands for a gate where the programmatic teacher gave no task at all."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a synthesis is; `rejected_by_gate` counts refusals by the gate that failed first.

    `route_distance` is the mean total variation distance between wanted and admitted routes.
    """

    requested: int
    admitted: int
    attempted: int
    rejected_by_gate: Mapping[str, int]
    usage: Usage = Usage()  # noqa: RUF009 - frozen
    route_distance: float = 0.0


@dataclass
class Tally:
    """The running state of one request; `limit` is the most items that it may try."""

    requested: int
    limit: int
    admitted: int = 0
    attempted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    usage: Usage = Usage()  # noqa: RUF009 - frozen
    reported_at: float = field(default_factory=time.monotonic)

    @property
    def open(self) -> bool:
        """Whether more attempts are wanted and allowed."""
        return self.admitted < self.requested and self.attempted < self.limit

    def count(self, attempt: Attempt) -> None:
        """Counts an attempt that was settled."""
        self.attempted += 1
        self.usage += attempt.usage
        if attempt.task_id:
            self.admitted += 1
        else:
            self.rejected[attempt.gate or NOT_COMPOSED] += 1

    def report(self, route_distance: float = 0.0) -> Progress:
        """The progress as it is now."""
        self.reported_at = time.monotonic()
        return Progress(
            self.requested,
            self.admitted,
            self.attempted,
            dict(self.rejected),
            self.usage,
            route_distance,
        )

    @property
    def report_due(self) -> bool:
        """Whether the stream was silent for long enough."""
        return time.monotonic() - self.reported_at >= PROGRESS_SECONDS
