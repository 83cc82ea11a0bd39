import asyncio
import hashlib
from pathlib import Path

import pytest

from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.api.v1 import trajectory_pb2
from synthagent.client import SynthAgentClient
from synthagent.convert import segment_from_proto
from synthagent.errors import Corrupt, NotFound, PreconditionFailed
from synthagent.tokens import TokenSource
from tests.services.rollout.conftest import Serve, finished, selection
from tests.services.rollout.policy.conftest import tiny_model, write_tokenizer

VERSIONLESS = 0
LIMIT = 1600


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny random model; it says nothing sensible, so every turn goes to the user."""
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def _weights(tmp_path: Path, seed: int) -> tuple[Path, str]:
    folder = tmp_path / f"weights-{seed}"
    tiny_model(seed).save_pretrained(folder)
    path = folder / "model.safetensors"
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def _spec(**training: int) -> pb.RunSpec:
    sampling = trajectory_pb2.SamplingSettings(temperature=1.0, max_turn_tokens=12)
    return pb.RunSpec(
        policy=pb.PolicyAgent(sampling=sampling, max_episode_tokens=LIMIT),
        tasks=selection(1),
        group_size=3,
        max_turns=4,
        seed=5,
        training=pb.TrainingSteps(**training) if training else None,
    )


async def _trajectories(client: SynthAgentClient, run_id: str) -> list[trajectory_pb2.Trajectory]:
    listed = [item.trajectory_id async for item in client.list_trajectories(run_id)]
    return [await client.get_trajectory(name) for name in sorted(listed)]


def _without_times(trajectory: trajectory_pb2.Trajectory) -> trajectory_pb2.Trajectory:
    for event in trajectory.events:
        event.ClearField("recorded_at")
    return trajectory


async def test_tokens_are_carried_as_they_were_sampled(serve: Serve, model: Path) -> None:
    async with serve(policy_model=str(model), policy_threads=1) as (client, _):
        await client.create_run("p", _spec())
        run = await finished(client, "p")
        assert run.progress.episodes_invalid == 0
        sampled = 0
        for trajectory in await _trajectories(client, "p"):
            assert trajectory.sampling.max_turn_tokens == 12
            segments = [segment_from_proto(segment) for segment in trajectory.segments]
            turns = [event.agent.text for event in trajectory.events if event.HasField("agent")]
            policy = TokenSource.POLICY
            assert [segment.source is policy for segment in segments] == [False, True] * len(turns)
            assert segments[0].source is TokenSource.PROMPT
            for segment in segments[1::2]:
                assert 1 <= len(segment.token_ids) == len(segment.logprobs) <= 12
                assert all(value <= 0.0 for value in segment.logprobs)
                assert segment.policy_version == VERSIONLESS
                sampled += len(segment.token_ids)
            assert sum(len(segment.token_ids) for segment in segments) <= LIMIT
        assert run.progress.policy_tokens == sampled > 0


async def test_the_limit_of_tokens_ends_an_episode(serve: Serve, model: Path) -> None:
    async with serve(policy_model=str(model), policy_threads=1) as (client, _):
        spec = _spec()
        spec.policy.max_episode_tokens = 64
        await client.create_run("p", spec)
        await finished(client, "p")
        trajectory = await client.get_trajectory("p.0.0")
        assert trajectory.outcome == trajectory_pb2.EPISODE_OUTCOME_TOKEN_LIMIT
        assert not trajectory.segments
        assert trajectory.verdict.reward == 0.0
        spec.policy.max_episode_tokens = 1_000_000
        with pytest.raises(PreconditionFailed, match="holds 2048 tokens"):
            await client.create_run("q", spec)


async def test_steps_wait_for_the_policy_that_they_need(
    serve: Serve, model: Path, tmp_path: Path
) -> None:
    settings = {"policy_model": str(model), "policy_threads": 1}
    path, digest = _weights(tmp_path, 1)
    async with serve(**settings) as (client, _):
        await client.create_run("p", _spec(steps=3, groups_per_step=1))
        first = [item async for item in client.stream_batch("p", 0)]
        assert {s.policy_version for i in first[1:] for s in i.trajectory.segments} == {0}
        with pytest.raises(PreconditionFailed, match="needs policy version 1"):
            await anext(client.stream_batch("p", 1))
        with pytest.raises(NotFound, match="cannot be read"):
            await client.publish_policy(1, str(tmp_path / "nothing"), digest)
        with pytest.raises(Corrupt, match="SHA-256"):
            await client.publish_policy(1, str(path), "0" * 64)
        assert await client.publish_policy(1, str(path), digest) == 1
        assert await client.publish_policy(1, str(path), digest) == 1
        with pytest.raises(PreconditionFailed, match="above the current 1"):
            await client.publish_policy(1, str(path), "0" * 64)
        second = [item async for item in client.stream_batch("p", 1)]
    versions = [s.policy_version for i in second[1:] for s in i.trajectory.segments if s.logprobs]
    assert set(versions) == {1}

    async with serve(**settings) as (client, _):  # the published version is loaded again
        await client.create_run("q", _spec())
        await finished(client, "q")
        again = await _trajectories(client, "q")
    assert {s.policy_version for t in again for s in t.segments if s.logprobs} == {1}


async def test_a_policy_goes_on_where_it_was_cut(serve: Serve, model: Path) -> None:
    settings = {"policy_model": str(model), "policy_threads": 1}
    spec = _spec()
    spec.max_turns, spec.group_size = 12, 4
    async with serve(**settings) as (client, _):
        await client.create_run("whole", spec)
        await finished(client, "whole")
        whole = [_without_times(item) for item in await _trajectories(client, "whole")]
    async with serve(**settings) as (client, _):
        await client.create_run("cut", spec)
    lives, seen, running = 0, 0, True
    while running:
        lives += 1
        async with serve(**settings) as (client, _):
            aim = seen + 4
            while running and seen < aim:
                await asyncio.sleep(0.005)
                running = (await client.get_run("cut")).state == pb.RUN_STATE_RUNNING
                seen = len((await client.get_trajectory("cut.0.0")).events)
            again = [_without_times(item) for item in await _trajectories(client, "cut")]
    assert lives > 2
    for one, other in zip(whole, again, strict=True):
        assert [event.SerializeToString() for event in other.events] == [
            event.SerializeToString() for event in one.events
        ]
        assert other.verdict == one.verdict
        for mine, theirs in zip(one.segments, other.segments, strict=True):
            assert mine.token_ids == theirs.token_ids
            # Products of other batch shapes round otherwise in their last digits.
            assert list(mine.logprobs) == pytest.approx(list(theirs.logprobs), abs=1e-4)


async def test_reference_agents_demonstrate_in_tokens(serve: Serve, model: Path) -> None:
    async with serve(policy_model=str(model), tokenize_reference_agents=True) as (client, _):
        spec = pb.RunSpec(reference=pb.REFERENCE_AGENT_GOLD, tasks=selection(1))
        await client.create_run("gold", spec)
        run = await finished(client, "gold")
        assert run.progress.policy_tokens == 0
        trajectory = await client.get_trajectory("gold.0.0")
    turns = [event.agent.text for event in trajectory.events if event.HasField("agent")]
    said = [s for s in trajectory.segments if s.source == trajectory_pb2.TOKEN_SOURCE_POLICY]
    assert len(said) == len(turns)
    from services.rollout.policy.chat import ChatFormat  # noqa: PLC0415

    chat = ChatFormat.load(model)
    for segment, text in zip(said, turns, strict=True):
        assert chat.decode(segment.token_ids) == text
        assert chat.ends_turn(segment.token_ids)
        assert not segment.logprobs
        segment_from_proto(segment)
