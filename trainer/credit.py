"""What the episodes of a batch are trained on with: advantages and weights, over all ranks.

A rank holds whole groups and knows the rewards of all. Which groups are trained on, and the scale
of a batch, follow from the rewards of the whole batch, and not from the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from trainer.advantage import (
    BatchAdvantages,
    Rewards,
    batch_advantages,
    batch_scale,
    informative,
    overlong_penalty,
    shaped,
)
from trainer.algorithms import Advantage, Aggregation
from trainer.config import RlSettings
from trainer.episodes import Episode
from trainer.packing import Sample
from trainer.staleness import Age, age_of, measure


@dataclass(frozen=True)
class GroupOutcome:
    """A group's rewards as its verdicts give them, and what each loses for its length."""

    name: str
    rewards: tuple[float | None, ...]
    penalties: tuple[float, ...]
    tokens: tuple[int, ...] = ()
    """Tokens of each episode."""
    ages: tuple[Age, ...] = ()
    """By which versions of the policy each episode was sampled."""


@dataclass(frozen=True)
class Credit:
    """This rank's episodes to train on, by group, and the counts of the whole batch."""

    groups: tuple[tuple[Sample, ...], ...]
    zero_variance_groups: int
    unused_groups: int


def outcome_of(
    group: Sequence[Episode], settings: RlSettings, policy_version: int = 0
) -> GroupOutcome:
    """What a group brings to the batch of a step from `policy_version`."""
    return GroupOutcome(
        group[0].sample.sample_id,
        tuple(episode.reward for episode in group),
        tuple(
            overlong_penalty(
                len(episode.sample.token_ids),
                settings.max_episode_tokens,
                settings.overlong_fraction,
            )
            for episode in group
        ),
        tuple(len(episode.sample.token_ids) for episode in group),
        tuple(age_of(episode, policy_version) for episode in group),
    )


def give_credit(
    groups: Sequence[Sequence[Episode]], batch: Sequence[GroupOutcome], settings: RlSettings
) -> Credit:
    """Credit for this rank's `groups`; `batch` holds the outcomes of all ranks, in any order."""
    chosen = _chosen(batch, settings)
    used = [outcome for outcome in batch if outcome.name in chosen]
    own = {outcome.name: outcome for outcome in used}
    kept = [group for group in groups if group[0].sample.sample_id in own]
    outcomes = [own[group[0].sample.sample_id] for group in kept]
    advantages = _advantages(outcomes, used, settings)
    trained = [
        tuple(
            replace(episode.sample, advantage=value, weight=_weight(episode.sample, settings))
            for episode, value in zip(group, values, strict=True)
            if value is not None
        )
        for group, values in zip(kept, advantages.values, strict=True)
    ]
    flat = sum(not informative(each.rewards, settings.outcome_gate) for each in batch)
    return Credit(
        tuple(group for group in trained if group),
        zero_variance_groups=flat,
        unused_groups=len(batch) - len(used),
    )


def describe(batch: Sequence[GroupOutcome]) -> dict[str, float]:
    """Mean tokens of the batch's episodes, and how many policy versions old they are."""
    tokens = [count for group in batch for count in group.tokens]
    return {
        "episode_tokens": fmean(tokens) if tokens else 0.0,
        **measure(age for group in batch for age in group.ages),
    }


def divisor(groups: Sequence[Sequence[Sample]], settings: RlSettings) -> float | None:
    """This rank's share of what the sum over its groups is divided by; None: its tokens."""
    if settings.aggregation is Aggregation.TOKEN:
        return None
    episodes = sum(bool(sample.policy_tokens) for group in groups for sample in group)
    if settings.aggregation is Aggregation.CONSTANT:
        return float(episodes * settings.max_episode_tokens)
    return float(episodes)


def _chosen(batch: Sequence[GroupOutcome], settings: RlSettings) -> set[str]:
    """Names of the groups that are used: all, or the first that vary (DAPO, eq. 11)."""
    if settings.oversampling <= 1:
        return {outcome.name for outcome in batch}
    varying = [each.name for each in batch if informative(each.rewards, settings.outcome_gate)]
    return set(sorted(varying)[: settings.groups_per_step])


def _advantages(
    outcomes: Sequence[GroupOutcome], used: Sequence[GroupOutcome], settings: RlSettings
) -> BatchAdvantages:
    scale = None
    if settings.advantage is Advantage.BATCH_STANDARDISED:
        # Sorted, so that the sum is the same whichever rank computes it.
        scale = batch_scale(_shaped(sorted(used, key=lambda outcome: outcome.name)))
    return batch_advantages(
        [outcome.rewards for outcome in outcomes],
        kind=settings.advantage,
        gate=settings.outcome_gate,
        rewards=_shaped(outcomes),
        scale=scale,
    )


def _shaped(outcomes: Sequence[GroupOutcome]) -> tuple[Rewards, ...]:
    return shaped([each.rewards for each in outcomes], [each.penalties for each in outcomes])


def _weight(sample: Sample, settings: RlSettings) -> float:
    """Weight of each policy token of an episode."""
    if settings.aggregation is Aggregation.SEQUENCE:
        return 1.0 / max(1, sample.policy_tokens)
    return 1.0
