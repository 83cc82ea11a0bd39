"""What strikes, and when: a function of (seed, count, seconds), so that a run can be made again.

Owns the kinds of faults. A schedule is data; what a fault does stands in `strikes.py`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from benchmarks.cluster import SERVICES

T = TypeVar("T")


class FaultKind(StrEnum):
    """What strikes."""

    KILL = "kill"
    """SIGKILL of a replica, of a worker process of one, or of the database's main process."""
    FREEZE = "freeze"
    """SIGSTOP of a replica, which holds its connections and answers nothing; then SIGCONT."""
    DATABASE_RESTART = "database_restart"
    """The database ends, cutting its sessions or leaving itself to recover, and starts again."""
    CONNECTION_RESET = "connection_reset"
    """Every connection to the database is reset, and new ones are for as long as it lasts."""
    CONNECTION_DELAY = "connection_delay"
    """Every packet to and from the database comes late."""
    DISK_FULL = "disk_full"
    """The file system of the database has no byte left."""
    CLOCK_JUMP = "clock_jump"
    """The wall clock of a running replica jumps by up to two hours, and back."""
    DUPLICATE_REQUESTS = "duplicate_requests"
    """Mutations that were answered come again, many times at once and to several replicas."""
    REORDERED_REQUESTS = "reordered_requests"
    """Requests come before those that they build on, or in the wrong order."""
    CORRUPT_IMPORT = "corrupt_import"
    """Tasks come cut short, forged or hostile."""
    OUT_OF_MEMORY = "out_of_memory"
    """A replica gets no more memory while requests go on asking for some."""


WEIGHTS: Mapping[FaultKind, int] = {
    **dict.fromkeys(FaultKind, 1),
    FaultKind.KILL: 3,
    FaultKind.FREEZE: 2,
    FaultKind.CONNECTION_RESET: 2,
    FaultKind.OUT_OF_MEMORY: 2,
}
"""How often each kind strikes, relative to the others."""

LONGEST: Mapping[FaultKind, float] = {
    # Longer than a lease: the episodes of a frozen replica become others', and it must notice.
    FaultKind.FREEZE: 25.0,
    FaultKind.DATABASE_RESTART: 4.0,
    FaultKind.CONNECTION_RESET: 2.0,
    FaultKind.CONNECTION_DELAY: 6.0,
    FaultKind.DISK_FULL: 5.0,
    FaultKind.CLOCK_JUMP: 20.0,
    FaultKind.OUT_OF_MEMORY: 5.0,
}
"""Most seconds that a fault lasts; those that are not here are over at once."""

DATABASE = "database"
WORKER = "worker"
"""A target of KILL beside the services: a process that composes and certifies tasks."""


@dataclass(frozen=True)
class Fault:
    """A fault that is due `at` seconds after the beginning and lasts `seconds`.

    `target` is a service, DATABASE or WORKER; `number` is its own seed for what else it draws.
    """

    at: float
    kind: FaultKind
    target: str
    seconds: float
    number: int


_TARGETS: Mapping[FaultKind, Sequence[str]] = {
    **dict.fromkeys(FaultKind, (DATABASE,)),
    **dict.fromkeys((FaultKind.FREEZE, FaultKind.CLOCK_JUMP, FaultKind.OUT_OF_MEMORY), SERVICES),
    FaultKind.KILL: (*SERVICES, DATABASE, WORKER),
}


def schedule(seed: int, count: int, seconds: float) -> list[Fault]:
    """`count` faults within `seconds`, in order of time; with 16 or more, of every kind.

    Each has an equal part of the time and strikes at a drawn moment of it. Kinds come from a
    shuffled deck that holds each as often as `WEIGHTS` say, targets from a deck for each kind, so
    that every service is struck.
    """
    chance = random.Random(seed)  # noqa: S311 - a schedule, no secret
    kinds = _Decks(chance, [kind for kind, weight in WEIGHTS.items() for _ in range(weight)])
    targets = {kind: _Decks(chance, cards) for kind, cards in _TARGETS.items()}
    part = seconds / count
    faults = []
    for number in range(count):
        kind = kinds.draw()
        faults.append(
            Fault(
                at=(number + chance.random()) * part,
                kind=kind,
                target=targets[kind].draw(),
                seconds=chance.uniform(0.2, 1.0) * LONGEST.get(kind, 0.0),
                number=chance.getrandbits(32),
            )
        )
    return faults


class _Decks(Generic[T]):
    """A deck of cards that is shuffled anew whenever it is used up."""

    def __init__(self, chance: random.Random, cards: Sequence[T]) -> None:
        self._chance = chance
        self._cards = list(cards)
        self._left: list[T] = []

    def draw(self) -> T:
        """The next card."""
        if not self._left:
            self._left = self._chance.sample(self._cards, len(self._cards))
        return self._left.pop()
