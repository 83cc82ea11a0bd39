"""Staleness: how many policy versions before a step's own its tokens were sampled.

A turn has one version, an episode may have several. The rollout service admits no episode that
could become older than the run allows; what arrives is measured here all the same, and one that
breaks the promise stops the run before it is trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from synthagent.errors import Corrupt
from trainer.episodes import Episode


@dataclass(frozen=True)
class Age:
    """An episode's policy tokens by their staleness; none where no policy acted."""

    trajectory_id: str
    tokens: Mapping[int, int]


def age_of(episode: Episode, policy_version: int) -> Age:
    """The age of an episode in a step that trains `policy_version`."""
    return Age(
        episode.sample.sample_id,
        {policy_version - version: n for version, n in episode.sampled_tokens.items()},
    )


def measure(ages: Iterable[Age]) -> dict[str, float]:
    """Staleness over policy tokens (mean, max), and the mean over episodes of their oldest token.

    Zeros where no policy acted.
    """
    sampled = [age.tokens for age in ages if age.tokens]
    tokens = sum(sum(each.values()) for each in sampled)
    total = sum(age * n for each in sampled for age, n in each.items())
    return {
        "staleness": total / tokens if tokens else 0.0,
        "staleness_max": float(max((max(each) for each in sampled), default=0)),
        "episode_staleness": fmean(max(each) for each in sampled) if sampled else 0.0,
    }


def require_fresh(ages: Iterable[Age], max_staleness: int, policy_version: int) -> None:
    """Raises Corrupt where a token is older than allowed, or of a version that is yet to come."""
    for age in ages:
        if not age.tokens:
            continue
        if max(age.tokens) > max_staleness:
            raise Corrupt(
                f"trajectory {age.trajectory_id} was sampled by policy version "
                f"{policy_version - max(age.tokens)}, {max(age.tokens)} before version "
                f"{policy_version} that trains, and rl.max_staleness is {max_staleness}; nothing "
                "was trained on it. See whether another trainer publishes to this rollout service"
            )
        if min(age.tokens) < 0:
            raise Corrupt(
                f"trajectory {age.trajectory_id} was sampled by policy version "
                f"{policy_version - min(age.tokens)}, which is newer than version {policy_version} "
                "that trains; nothing was trained on it. See whether another trainer publishes to "
                "this rollout service"
            )
