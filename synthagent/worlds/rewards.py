"""Rewards: presets as data, one computation, and the gate before group normalisation.

Section 1 of SYNTHAGENT (arXiv 2601.22511) gives the reward `paper`; the authors' released code
computes another, `paper_code`. Both are rows of REWARD_PRESETS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from synthagent.worlds.criteria import Section
from synthagent.worlds.episode import CriterionResult
from synthagent.worlds.spec import Task


@dataclass(frozen=True, slots=True)
class RewardPreset:
    """How fractions of the three sections become a reward in [0, 1]."""

    name: str
    min_policy_fraction: float  # below it the reward is 0
    min_sub_goal_fraction: float  # below it the reward is 0
    sub_goal_weight: float
    interaction_weight: float


REWARD_PRESETS: Mapping[str, RewardPreset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            RewardPreset("paper", 1.0, 0.0, 0.5, 0.5),
            RewardPreset("paper_code", 0.5, 0.3, 0.7, 0.3),
            # Ablations of the first: without the gate of forbidden acts, and, for agents that are
            # told what they would ask, without what asking is worth.
            RewardPreset("no_restriction_gate", 0.0, 0.0, 0.5, 0.5),
            RewardPreset("no_interaction", 1.0, 0.0, 1.0, 0.0),
        )
    }
)

CERTIFIED_PRESETS = ("paper", "paper_code")
"""Those that the gates hold a task to. The others leave out, on purpose, what a gate asks for."""


@dataclass(frozen=True, slots=True)
class Fractions:
    """Satisfied weight over weight of each section, in [0, 1]; None where it has no criteria."""

    policy: float | None
    sub_goal: float | None
    interaction: float | None


def fractions(task: Task, results: Sequence[CriterionResult]) -> Fractions:
    """The fractions of a rubric whose results stand in its order."""
    total = dict.fromkeys(Section, 0.0)
    satisfied = dict.fromkeys(Section, 0.0)
    for criterion, result in zip(task.criteria, results, strict=True):
        total[criterion.section] += criterion.weight
        if result.satisfied:
            satisfied[criterion.section] += criterion.weight
    share = {
        section: min(satisfied[section] / weight, 1.0) if weight else None
        for section, weight in total.items()
    }
    return Fractions(share[Section.POLICY], share[Section.SUB_GOAL], share[Section.INTERACTION])


def reward(preset: RewardPreset, of: Fractions) -> float:
    """The reward in [0, 1]. A section without criteria leaves its weight to the other.

    A rubric with neither sub-goals nor interactions asks for nothing and is worth 0.
    """
    if of.policy is not None and of.policy < preset.min_policy_fraction:
        return 0.0
    if of.sub_goal is not None and of.sub_goal < preset.min_sub_goal_fraction:
        return 0.0
    parts = [
        (weight, fraction)
        for weight, fraction in (
            (preset.sub_goal_weight, of.sub_goal),
            (preset.interaction_weight, of.interaction),
        )
        if fraction is not None and weight
    ]
    weight = sum(weight for weight, _ in parts)
    return min(sum(w * fraction for w, fraction in parts) / weight, 1.0) if parts else 0.0


def outcome_gate(rewards: Sequence[float | None], threshold: float) -> list[float | None]:
    """Takes the shape out of a group in which nobody succeeded.

    Where no reward of the group reaches `threshold`, each becomes 0: the group has no variance, so
    it is counted and carries no gradient, instead of teaching which failure looks best. Otherwise
    the rewards stay as they are. None is an invalid episode and stays None: it is neither a
    failure nor a success, and never enters the statistics of the group.
    """
    if any(value is not None and value >= threshold for value in rewards):
        return list(rewards)
    return [None if value is None else 0.0 for value in rewards]
