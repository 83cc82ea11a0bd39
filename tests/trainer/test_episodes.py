"""Trajectories become samples, and only what can be trained on does."""

from __future__ import annotations

import numpy as np
import pytest

from synthagent.api.v1 import trajectory_pb2
from synthagent.errors import Corrupt
from trainer.episodes import episode_from, sample_from

PROMPT = trajectory_pb2.TOKEN_SOURCE_PROMPT
POLICY = trajectory_pb2.TOKEN_SOURCE_POLICY
OBSERVATION = trajectory_pb2.TOKEN_SOURCE_OBSERVATION


def segment(
    source: trajectory_pb2.TokenSource.ValueType,
    ids: list[int],
    logprobs: list[float] | None = None,
) -> trajectory_pb2.TokenSegment:
    return trajectory_pb2.TokenSegment(source=source, token_ids=ids, logprobs=logprobs or [])


def trajectory(*segments: trajectory_pb2.TokenSegment) -> trajectory_pb2.Trajectory:
    return trajectory_pb2.Trajectory(trajectory_id="t-1", segments=segments)


def test_only_the_policys_tokens_are_masked_in() -> None:
    sample = sample_from(
        trajectory(
            segment(PROMPT, [1, 2, 3]),
            segment(POLICY, [4, 5], [-0.5, -0.25]),
            segment(OBSERVATION, [6, 7]),
            segment(POLICY, [8], [-1.0]),
        )
    )
    assert sample.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert np.flatnonzero(sample.policy_mask).tolist() == [3, 4, 7]
    assert sample.logprobs[sample.policy_mask].tolist() == [-0.5, -0.25, -1.0]
    assert not sample.logprobs[~sample.policy_mask].any()
    assert sample.prompt_tokens == 3


def test_gold_tokens_need_no_log_probabilities() -> None:
    sample = sample_from(trajectory(segment(PROMPT, [1]), segment(POLICY, [2, 3])))
    assert sample.policy_tokens == 2
    assert not sample.logprobs.any()


@pytest.mark.parametrize(
    ("segments", "sentence"),
    [
        ((), "carries no tokens"),
        ((segment(PROMPT, [1]), segment(POLICY, [2, 3], [-1.0])), "do not fit its tokens"),
        ((segment(PROMPT, [1], [-1.0]), segment(POLICY, [2])), "do not fit its tokens"),
        ((segment(POLICY, [2]),), "must begin with a prompt"),
    ],
)
def test_tokens_that_cannot_be_trained_on_are_refused(
    segments: tuple[trajectory_pb2.TokenSegment, ...], sentence: str
) -> None:
    with pytest.raises(Corrupt, match=sentence):
        sample_from(trajectory(*segments))


def test_an_invalid_verdict_is_no_reward() -> None:
    item = trajectory(segment(PROMPT, [1]), segment(POLICY, [2], [-1.0]))
    item.verdict.invalid.reason = trajectory_pb2.INVALID_REASON_TOOL_FAULT
    assert episode_from(item).reward is None
    item.verdict.reward = 0.0
    assert episode_from(item).reward == 0.0


def test_a_fault_before_the_prompt_leaves_an_episode_without_loss() -> None:
    item = trajectory()
    item.verdict.invalid.reason = trajectory_pb2.INVALID_REASON_POLICY_FAULT
    episode = episode_from(item)
    assert episode.reward is None
    assert episode.sample.policy_tokens == 0


def test_tokens_are_counted_by_the_version_that_sampled_them() -> None:
    item = trajectory(segment(PROMPT, [1]))
    for version, ids in ((3, [2, 3]), (4, [4]), (4, [5, 6])):
        said = segment(POLICY, ids, [-1.0] * len(ids))
        said.policy_version = version
        item.segments.append(said)
    item.segments.append(segment(POLICY, [7, 8]))  # a reference agent's: nobody sampled it
    item.verdict.reward = 1.0
    assert episode_from(item).sampled_tokens == {3: 2, 4: 3}
