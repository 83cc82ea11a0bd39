"""A weight update in the middle of episodes: they go on, and each token says its version."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.api.v1 import trajectory_pb2
from synthagent.client import SynthAgentClient
from synthagent.model_server.folder import lay_out
from tests.services.rollout.conftest import Serve, finished, selection
from tests.services.rollout.policy.conftest import tiny_model, write_tokenizer
from tests.services.rollout.policy.vllm_server import VllmStandIn, listening

TURNS = 24
SPEC = pb.RunSpec(
    policy=pb.PolicyAgent(
        sampling=trajectory_pb2.SamplingSettings(temperature=1.0, max_turn_tokens=6),
        max_episode_tokens=4000,
    ),
    tasks=selection(1),
    group_size=3,
    max_turns=TURNS,
)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def _update_in_the_middle(client: SynthAgentClient, weights: Path) -> list[list[int]]:
    """Publishes version 1 while every episode runs; returns the versions of each one's turns."""
    await client.create_run("r", SPEC)
    names = [f"r.0.{index}" for index in range(SPEC.group_size)]
    for name in names:
        while len((await client.get_trajectory(name)).events) < 4:  # noqa: ASYNC110 - no event of this loop
            await asyncio.sleep(0.005)
    assert await client.publish_policy(1, str(weights), _digest(weights)) == 1
    run = await finished(client, "r")
    assert run.progress.episodes_invalid == 0
    versions = []
    for name in names:
        trajectory = await client.get_trajectory(name)
        said = [s for s in trajectory.segments if s.source == trajectory_pb2.TOKEN_SOURCE_POLICY]
        assert len(said) == TURNS
        assert all(len(s.logprobs) == len(s.token_ids) > 0 for s in said)
        versions.append([segment.policy_version for segment in said])
    return versions


@pytest.mark.parametrize("where", ["local", "server"])
async def test_episodes_survive_a_weight_update(serve: Serve, tmp_path: Path, where: str) -> None:
    model = tmp_path / "model"
    tiny_model().save_pretrained(model)
    write_tokenizer(model)
    tiny_model(1).save_pretrained(tmp_path / "new")
    weights = tmp_path / "new" / "model.safetensors"
    settings = {
        "policy_model": str(model),
        "policy_threads": 1,
        "policy_max_sequence_tokens": 4096,
        "model_cache": tmp_path,
    }
    if where == "local":
        async with serve(**settings) as (client, _):
            versions = await _update_in_the_middle(client, weights)
    else:
        stand_in = VllmStandIn(lay_out(model, cache=tmp_path), turn_seconds=0.02)
        async with (
            listening(stand_in),
            serve(**settings, policy_base_url=stand_in.base_url) as (client, _),
        ):
            versions = await _update_in_the_middle(client, weights)
    for episode in versions:
        assert episode[0] == 0
        assert episode[-1] == 1
        assert episode == sorted(episode)
