"""Trajectories as arrays: what of a message is trained on, and which policy sampled it.

Token ids and log-probabilities are taken as they were recorded; text is never tokenised again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from synthagent.api.v1 import trajectory_pb2
from synthagent.errors import Corrupt
from trainer.packing import Sample


@dataclass(frozen=True)
class Episode:
    """One trajectory of a batch; `reward` is None where the verdict is INVALID.

    `sampled_tokens` counts the policy's tokens by the version that sampled them.
    """

    sample: Sample
    reward: float | None
    sampled_tokens: Mapping[int, int] = field(default_factory=dict)


def sample_from(trajectory: trajectory_pb2.Trajectory) -> Sample:
    """The tokens of a trajectory. Raises Corrupt where they cannot be trained on."""
    name = trajectory.trajectory_id
    if not trajectory.segments:
        raise Corrupt(
            f"trajectory {name} carries no tokens; start the rollout service with its policy engine"
        )
    policy, prompt = trajectory_pb2.TOKEN_SOURCE_POLICY, trajectory_pb2.TOKEN_SOURCE_PROMPT
    ids, mask, logprobs = [], [], []
    prompt_tokens, in_prompt = 0, True
    for segment in trajectory.segments:
        count = len(segment.token_ids)
        sampled = segment.source == policy
        in_prompt = in_prompt and segment.source == prompt
        prompt_tokens += count if in_prompt else 0
        if len(segment.logprobs) not in ({count, 0} if sampled else {0}):
            raise Corrupt(f"trajectory {name}: a segment's log-probabilities do not fit its tokens")
        ids.append(np.array(segment.token_ids, dtype=np.int64))
        mask.append(np.full(count, sampled))
        recorded = segment.logprobs or [0.0] * count
        logprobs.append(np.array(recorded, dtype=np.float32))
    try:
        return Sample(
            name, np.concatenate(ids), np.concatenate(mask), np.concatenate(logprobs), prompt_tokens
        )
    except ValueError as error:
        raise Corrupt(f"trajectory {name} cannot be trained on: {error}") from error


def episode_from(trajectory: trajectory_pb2.Trajectory) -> Episode:
    """A trajectory of a batch. One that ended by a fault before its prompt has no tokens."""
    verdict = trajectory.verdict
    reward = verdict.reward if verdict.WhichOneof("outcome") == "reward" else None
    if reward is None and not trajectory.segments:
        blank = np.zeros(1, dtype=np.int64)
        sample = Sample(
            trajectory.trajectory_id, blank, blank.astype(bool), blank.astype(np.float32), 1
        )
        return Episode(sample, None)
    sampled_tokens: Counter[int] = Counter()
    for segment in trajectory.segments:
        # A reference agent's turns have no log-probabilities: no policy sampled them.
        if segment.source == trajectory_pb2.TOKEN_SOURCE_POLICY and segment.logprobs:
            sampled_tokens[segment.policy_version] += len(segment.token_ids)
    return Episode(sample_from(trajectory), reward, dict(sampled_tokens))
