"""Advantages: how much better an episode was than those it is compared with.

Pure functions. A trajectory without a reward (INVALID) is in no statistic and is not trained on.
The outcome gate comes first: whether a group teaches anything is decided by its outcome rewards,
before any shaping or normalisation. A group whose outcome rewards do not vary carries no gradient
where it is its own measure: it is counted and skipped, never hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from synthagent.worlds.rubric import outcome_gate
from trainer.algorithms import Advantage

_SAME = 1e-9  # rewards closer than this do not vary
_STD_FLOOR = 1e-6  # keeps the division finite; far below any real spread

Rewards = Sequence[float | None]


@dataclass(frozen=True)
class RewardStatistics:
    """Mean and standard error of valid rewards (0 where undefined) and how many there were."""

    mean: float
    sem: float
    n: int
    invalid: int


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the rewards of a whole batch, over all ranks."""

    mean: float
    std: float


@dataclass(frozen=True)
class BatchAdvantages:
    """`values[g][i]` is the advantage of episode i of group g, None where it is not trained on."""

    values: tuple[tuple[float | None, ...], ...]
    zero_variance_groups: int


def reward_statistics(rewards: Rewards) -> RewardStatistics:
    """Statistics of rewards in [0, 1]; None is INVALID."""
    valid = [reward for reward in rewards if reward is not None]
    return RewardStatistics(
        mean=fmean(valid) if valid else 0.0,
        sem=stdev(valid) / math.sqrt(len(valid)) if len(valid) > 1 else 0.0,
        n=len(valid),
        invalid=len(rewards) - len(valid),
    )


def overlong_penalty(tokens: int, most: int, fraction: float) -> float:
    """What an episode of `tokens` tokens loses, in [-1, 0] (DAPO, arXiv 2503.14476, eq. 13).

    Nothing up to (1 - `fraction`) of `most`, then linearly to -1 at `most`.
    """
    buffer = fraction * most
    if not buffer or tokens <= most - buffer:
        return 0.0
    return max(-1.0, (most - buffer - tokens) / buffer)


def shaped(
    groups: Sequence[Rewards], penalties: Sequence[Sequence[float]]
) -> tuple[tuple[float | None, ...], ...]:
    """Rewards with their penalties; None stays None."""
    return tuple(
        tuple(
            None if reward is None else reward + penalty
            for reward, penalty in zip(rewards, lost, strict=True)
        )
        for rewards, lost in zip(groups, penalties, strict=True)
    )


def batch_scale(groups: Sequence[Rewards]) -> Scale:
    """Scale of the valid rewards of all groups."""
    valid = [reward for rewards in groups for reward in rewards if reward is not None]
    return Scale(mean=fmean(valid) if valid else 0.0, std=stdev(valid) if len(valid) > 1 else 0.0)


def informative(outcomes: Rewards, gate: float) -> bool:
    """Whether a group's outcome rewards, behind the gate, vary."""
    valid = [reward for reward in outcome_gate(outcomes, gate) if reward is not None]
    return len(valid) > 1 and max(valid) - min(valid) >= _SAME


def batch_advantages(
    outcomes: Sequence[Rewards],
    *,
    kind: Advantage,
    gate: float,
    rewards: Sequence[Rewards] | None = None,
    scale: Scale | None = None,
) -> BatchAdvantages:
    """Advantages of each group.

    `outcomes` are rewards as verdicts give them, in [0, 1]; `rewards` the same with shaping, where
    there is any. `scale` is that of the whole batch, which BATCH_STANDARDISED needs; by default
    that of these groups. Sources: `algorithms`.
    """
    rewards = outcomes if rewards is None else rewards
    flat = sum(not informative(group, gate) for group in outcomes)
    if kind is Advantage.BATCH_STANDARDISED:
        measure = scale or batch_scale(rewards)
        return BatchAdvantages(
            tuple(_standardised(group, measure) for group in rewards), zero_variance_groups=flat
        )
    values = tuple(
        _group_advantages(group, kind) if informative(outcome, gate) else (None,) * len(group)
        for outcome, group in zip(outcomes, rewards, strict=True)
    )
    return BatchAdvantages(values, zero_variance_groups=flat)


def _standardised(rewards: Rewards, scale: Scale) -> tuple[float | None, ...]:
    if scale.std < _SAME:
        return (None,) * len(rewards)
    return tuple(
        None if reward is None else (reward - scale.mean) / (scale.std + _STD_FLOOR)
        for reward in rewards
    )


def _group_advantages(rewards: Rewards, kind: Advantage) -> tuple[float | None, ...]:
    valid = [reward for reward in rewards if reward is not None]
    mean = fmean(valid)
    factor = 1.0
    if kind is Advantage.GROUP_STANDARDISED:
        factor = 1.0 / (stdev(valid) + _STD_FLOOR)
    elif kind is Advantage.LEAVE_ONE_OUT:
        # r - (sum - r) / (n - 1) = (r - mean) n / (n - 1)
        factor = len(valid) / (len(valid) - 1)
    return tuple(None if reward is None else (reward - mean) * factor for reward in rewards)
