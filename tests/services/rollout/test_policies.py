"""The choice of the engine; both engines themselves are tested in `policy/`."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.api.v1 import trajectory_pb2
from synthagent.client import SynthAgentClient
from synthagent.errors import BackendUnavailable, PreconditionFailed
from synthagent.model_server.folder import lay_out
from tests.services.rollout.conftest import Serve, finished, selection
from tests.services.rollout.policy.conftest import tiny_model, write_tokenizer
from tests.services.rollout.policy.vllm_server import (
    INITIAL_LOGPROB,
    RELOADED_LOGPROB,
    VllmStandIn,
    listening,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture
async def stand_in(model: Path, tmp_path: Path) -> AsyncIterator[VllmStandIn]:
    stand_in = VllmStandIn(lay_out(model, cache=tmp_path))
    async with listening(stand_in):
        yield stand_in


def _spec() -> pb.RunSpec:
    sampling = trajectory_pb2.SamplingSettings(temperature=1.0, max_turn_tokens=12)
    return pb.RunSpec(
        policy=pb.PolicyAgent(sampling=sampling, max_episode_tokens=1600),
        tasks=selection(1),
        group_size=2,
        max_turns=3,
    )


async def _sampled(client: SynthAgentClient, run_id: str) -> set[tuple[int, float]]:
    """Versions and log-probabilities of what the policy said in a run."""
    await client.create_run(run_id, _spec())
    assert (await finished(client, run_id)).progress.episodes_invalid == 0
    listed = [item.trajectory_id async for item in client.list_trajectories(run_id)]
    trajectories = [await client.get_trajectory(name) for name in listed]
    segments = [segment for trajectory in trajectories for segment in trajectory.segments]
    return {(s.policy_version, value) for s in segments for value in s.logprobs}


async def test_a_model_server_acts_and_gets_what_is_published(
    serve: Serve, model: Path, stand_in: VllmStandIn, tmp_path: Path
) -> None:
    settings = {
        "policy_model": str(model),
        "policy_base_url": stand_in.base_url,
        "model_cache": tmp_path,
    }
    tiny_model(1).save_pretrained(tmp_path / "weights")
    path = tmp_path / "weights" / "model.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    async with serve(**settings) as (client, _):
        assert await _sampled(client, "first") == {(0, INITIAL_LOGPROB)}
        assert await client.publish_policy(1, str(path), digest) == 1
        assert await _sampled(client, "second") == {(1, RELOADED_LOGPROB)}
    stand_in.restart()
    async with serve(**settings) as (client, _):
        assert await _sampled(client, "third") == {(1, RELOADED_LOGPROB)}


async def test_a_server_that_is_away_or_another_is_told_when_a_run_asks(
    serve: Serve, model: Path, stand_in: VllmStandIn
) -> None:
    away = {"policy_model": str(model), "policy_base_url": "http://127.0.0.1:9/v1"}
    async with serve(**away) as (client, _):
        with pytest.raises(BackendUnavailable, match=r"127\.0\.0\.1:9 cannot be reached"):
            await client.create_run("r", _spec())
    other = {"policy_model": str(model), "policy_base_url": stand_in.base_url}
    async with serve(**other, policy_served_model="parrot") as (client, _):
        with pytest.raises(PreconditionFailed, match="SYNTHAGENT_POLICY_SERVED_MODEL"):
            await client.create_run("r", _spec())
