"""What a worker process does: composes tasks and runs every gate that needs no other task.

A pure function of its arguments, so attempts may be examined in any order, by any process, or again
after a crash. The novelty gate looks at the tasks admitted before, so it is left to `admission`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from synthagent.worlds.certify import Rejected, admit
from synthagent.worlds.compose import ComposeError, Composer
from synthagent.worlds.spec import Split, Task


@dataclass(frozen=True, slots=True)
class Drawing:
    """What tasks are drawn from. `domains` None means all of the split."""

    split: Split
    difficulty: str
    domains: tuple[str, ...] | None
    seed: int

    def attempt_seed(self, attempt: int) -> int:
        """The teacher's seed of an attempt, 0 to 2**64 - 1.

        A digest, so that requests with neighbouring seeds share no tasks.
        """
        digest = hashlib.sha256(f"{self.seed}:{attempt}".encode()).digest()
        return int.from_bytes(digest[:8], "big")


@dataclass(frozen=True, slots=True)
class Examined:
    """One attempt: the task as JSON, or why there is none and the gate that refused it.

    `gate` is empty where nothing could be composed.
    """

    attempt: int
    seed: int
    task: bytes | None
    gate: str = ""
    reason: str = ""


def examine(drawing: Drawing, attempts: Iterable[int]) -> list[Examined]:
    """Composes and certifies the attempts, one after the other, without the novelty gate."""
    composer = _composer(drawing.split, drawing.difficulty, drawing.domains)
    return [_examine(composer, attempt, drawing.attempt_seed(attempt)) for attempt in attempts]


def certify_given(tasks: Iterable[bytes]) -> list[Examined]:
    """Certifies tasks given as JSON, without the novelty gate. `attempt` is the position."""
    return [
        _certified(Task.model_validate_json(task), position, 0)
        for position, task in enumerate(tasks)
    ]


@lru_cache(maxsize=8)
def _composer(split: Split, difficulty: str, domains: tuple[str, ...] | None) -> Composer:
    return Composer(split, difficulty, domains)


def _examine(composer: Composer, attempt: int, seed: int) -> Examined:
    try:
        task = composer.task(seed)
    except ComposeError as error:
        return Examined(attempt, seed, None, "", str(error))
    return _certified(task, attempt, seed)


def _certified(task: Task, attempt: int, seed: int) -> Examined:
    try:
        return Examined(attempt, seed, admit(task).model_dump_json().encode())
    except Rejected as rejected:
        return Examined(attempt, seed, None, rejected.gate.value, rejected.reason)
