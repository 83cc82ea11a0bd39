"""Trajectories become samples, and only what can be trained on does."""

from __future__ import annotations

import numpy as np
import pytest

from synthagent.api.v1 import rollout_pb2, trajectory_pb2
from synthagent.errors import BackendUnavailable, Corrupt
from trainer import config
from trainer.stream import (
    RolloutLink,
    episode_from,
    evaluation_spec,
    gold_spec,
    sample_from,
    training_spec,
)

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


def test_runs_are_specified_as_configured() -> None:
    settings = config.parse(
        {
            "tasks": {"difficulty": "mini", "count": 9},
            "rl": {"group_size": 5, "groups_per_step": 3, "steps": 7, "max_turns": 4},
            "evaluation": {"count": 6, "temperature": 0.5},
        }
    )
    gold = gold_spec(settings.tasks, settings.rl, 1)
    assert gold.reference == rollout_pb2.REFERENCE_AGENT_GOLD
    assert (gold.tasks.count, gold.tasks.difficulty) == (9, "mini")
    assert not gold.HasField("training")
    training = training_spec(settings.tasks, settings.rl, "default", 1, 2)
    assert (training.group_size, training.max_turns) == (5, 4)
    assert (training.training.steps, training.training.groups_per_step) == (7, 3)
    assert training.training.first_policy_version == 2
    evaluated = evaluation_spec(settings.evaluation, settings.rl, "default", 1)
    assert evaluated.tasks.count == 6
    assert evaluated.policy.sampling.temperature == 0.5


def test_an_unreachable_service_is_said_to_be() -> None:
    settings = config.RolloutSettings(address="127.0.0.1:9", timeout_seconds=1)
    with RolloutLink(settings) as link, pytest.raises(BackendUnavailable):
        link.create_run("r", rollout_pb2.RunSpec())
