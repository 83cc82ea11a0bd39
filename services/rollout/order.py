"""The endless order of groups over tasks.

A group is the rollouts of one task at one step; its ordinal counts the groups of its run from 0.
Which task a group works on is a function of (seed, tasks, ordinal) alone: orders come from SHA-256,
never from a library's generator, so they are the same on any machine and version. Every task stands
once in each pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field


def _key(*parts: object) -> bytes:
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()


def shuffled(task_ids: Sequence[str], seed: int, purpose: str | int) -> tuple[str, ...]:
    """The tasks in the order that `seed` draws for `purpose`, whatever order they come in."""
    return tuple(sorted(task_ids, key=lambda task_id: _key(seed, purpose, task_id)))


def noise_seed(seed: int, ordinal: int, index: int) -> int:
    """Seed in [0, 2^63) of the sampling noise of one episode of a run."""
    return int.from_bytes(_key(seed, "noise", ordinal, index)[:8], "big") >> 1


@dataclass(frozen=True)
class GroupOrder:
    """Which task each group works on. The first pass is in the order given, later ones drawn."""

    task_ids: tuple[str, ...]
    seed: int
    _passes: dict[int, tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)

    def task_id(self, ordinal: int) -> str:
        """The task of the group with that ordinal."""
        number, place = divmod(ordinal, len(self.task_ids))
        if number == 0:
            return self.task_ids[place]
        if number not in self._passes:
            self._passes.clear()  # groups are admitted in order: one pass is enough to keep
            self._passes[number] = shuffled(self.task_ids, self.seed, number)
        return self._passes[number][place]


def group_id(run_id: str, ordinal: int) -> str:
    """Identifier of a group."""
    return f"{run_id}.{ordinal}"


def ordinal_of(group: str) -> int:
    """The ordinal in a group's identifier."""
    return int(group.rpartition(".")[2])


def trajectory_id(run_id: str, ordinal: int, index: int) -> str:
    """Identifier of an episode and of its trajectory: of the run, the group and the index."""
    return f"{run_id}.{ordinal}.{index}"
