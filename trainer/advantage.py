"""Group-relative advantages: how much better an episode was than its siblings.

Pure functions. A trajectory without a reward (INVALID) is in no statistic and is not trained on.
A group whose rewards do not vary carries no gradient: it is counted and skipped, never hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from synthagent.worlds.rubric import outcome_gate

_SAME = 1e-9  # rewards closer than this do not vary
_STD_FLOOR = 1e-6  # keeps the division finite; far below any real spread


@dataclass(frozen=True)
class RewardStatistics:
    """Mean and standard error of valid rewards (0 where undefined) and how many there were."""

    mean: float
    sem: float
    n: int
    invalid: int


@dataclass(frozen=True)
class BatchAdvantages:
    """`values[g][i]` is the advantage of episode i of group g, None where it is not trained on."""

    values: tuple[tuple[float | None, ...], ...]
    zero_variance_groups: int


def reward_statistics(rewards: Sequence[float | None]) -> RewardStatistics:
    """Statistics of rewards in [0, 1]; None is INVALID."""
    valid = [reward for reward in rewards if reward is not None]
    return RewardStatistics(
        mean=fmean(valid) if valid else 0.0,
        sem=stdev(valid) / math.sqrt(len(valid)) if len(valid) > 1 else 0.0,
        n=len(valid),
        invalid=len(rewards) - len(valid),
    )


def batch_advantages(
    groups: Sequence[Sequence[float | None]], *, divide_by_std: bool, gate: float
) -> BatchAdvantages:
    """Advantages of each group's rewards (GRPO, arXiv 2402.03300, section 4.1).

    The outcome gate comes before normalisation: a group in which no reward reaches `gate` has no
    variance left. With `divide_by_std` the sample
    standard deviation divides; without it, groups of little spread weigh less (arXiv 2503.20783).
    """
    values = tuple(
        _group_advantages(outcome_gate(rewards, gate), divide_by_std=divide_by_std)
        for rewards in groups
    )
    flat = sum(all(value is None for value in group) for group in values)
    return BatchAdvantages(values, zero_variance_groups=flat)


def _group_advantages(
    rewards: Sequence[float | None], *, divide_by_std: bool
) -> tuple[float | None, ...]:
    valid = [reward for reward in rewards if reward is not None]
    if len(valid) < 2 or max(valid) - min(valid) < _SAME:
        return (None,) * len(rewards)
    mean = fmean(valid)
    scale = stdev(valid) + _STD_FLOOR if divide_by_std else 1.0
    return tuple(None if reward is None else (reward - mean) / scale for reward in rewards)
