"""The policy as a vLLM server: tokens in, tokens out, log-probabilities, weights by version."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from services.rollout.policy.convert import convert
from services.rollout.policy.engine import EngineConfig, PolicyEngine
from services.rollout.policy.server_weights import PublishedWeights
from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.api.v1 import trajectory_pb2
from synthagent.client import SynthAgentClient
from tests.llm.conftest import Connect, RunningServer, full_model, mismatch, turn
from tests.services.rollout.conftest import Serve, finished, selection

pytestmark = pytest.mark.usefixtures("initial_weights")

TOLERANCE = 1e-3
"""Nats. Measured: 0.00005 at most over many turns, in float32 on both sides."""


async def test_logprobs_are_those_of_the_model_whatever_the_sampling(
    connect: Connect, model_folder: Path
) -> None:
    engine = await connect()
    model, chat = full_model(model_folder), engine.chat

    async def converse(number: int) -> float:
        read = chat.prompt_ids("You are a guide.", f"Name {number + 2} towns by the sea.")
        await engine.open_sequence(f"c{number}", read, noise_seed=number)
        first = await turn(engine, f"c{number}", [])
        worst = mismatch(model, read, first)
        ended = chat.ends_turn(first.token_ids)
        append = chat.observation_ids("user", "And which is the oldest?", turn_ended=ended)
        read = [*read, *first.token_ids, *append]
        second = await turn(engine, f"c{number}", append, 1.3, 1.0)
        return max(worst, mismatch(model, read, second))

    assert max(await asyncio.gather(*(converse(number) for number in range(6)))) < TOLERANCE


async def test_it_says_and_stops_as_the_local_engine(connect: Connect, model_folder: Path) -> None:
    remote = await connect()
    local = PolicyEngine(EngineConfig(model_folder, threads=1))
    await local.start()
    chat = local.chat
    call = '<tool_call>{"name": "find", "arguments": {}}</tool_call>'
    begun = chat.render_turn(f"{call}\n{call}\n{call[:-12]}")[:-1]
    prompts = (
        chat.prompt_ids("You are helpful.", "What is the capital of France?"),
        [*chat.prompt_ids("You are helpful.", "Call it."), *begun],
    )
    for number, prompt in enumerate(prompts):
        said = []
        for engine in (local, remote):
            await engine.open_sequence(str(number), prompt, noise_seed=1)
            said.append(await turn(engine, str(number), [], temperature=0.0))
        assert said[0].token_ids == said[1].token_ids
        assert said[0].finish_reason == said[1].finish_reason
        assert said[0].logprobs == pytest.approx(said[1].logprobs, abs=TOLERANCE)
    assert chat.decode(said[1].token_ids).endswith("</tool_call>")
    assert said[1].finish_reason == "stop"
    await local.stop()


async def test_weights_by_version_and_back(
    connect: Connect,
    model_folder: Path,
    weights: Callable[[int], PublishedWeights],
) -> None:
    engine = await connect()
    prompt = engine.chat.prompt_ids("You are helpful.", "Tell me about the moon.")
    await engine.open_sequence("w", prompt, noise_seed=3)
    new = weights(1)
    running = asyncio.create_task(turn(engine, "w", []))
    await asyncio.sleep(0.2)
    await engine.load_weights(1, new.path)
    old = await running
    assert old.policy_version == 0
    assert mismatch(full_model(model_folder), prompt, old) < TOLERANCE
    append = engine.chat.observation_ids("user", "More.", turn_ended=True)
    said = await turn(engine, "w", append)
    read = [*prompt, *old.token_ids, *append]
    assert said.policy_version == 1
    assert mismatch(full_model(model_folder, new.path), read, said) < TOLERANCE
    assert mismatch(full_model(model_folder), read, said) > 10 * TOLERANCE

    back = await connect()  # of a database in which nothing is published
    await back.open_sequence("b", prompt, noise_seed=3)
    said = await turn(back, "b", [])
    assert said.policy_version == 0
    assert mismatch(full_model(model_folder), prompt, said) < TOLERANCE


def run_spec(group_size: int) -> pb.RunSpec:
    sampling = trajectory_pb2.SamplingSettings(temperature=1.0, top_p=0.95, max_turn_tokens=40)
    return pb.RunSpec(
        policy=pb.PolicyAgent(sampling=sampling, max_episode_tokens=1800),
        tasks=selection(2),
        group_size=group_size,
        max_turns=3,
        seed=5,
    )


async def trajectories(client: SynthAgentClient, run_id: str) -> list[trajectory_pb2.Trajectory]:
    listed = [item.trajectory_id async for item in client.list_trajectories(run_id)]
    return [await client.get_trajectory(name) for name in sorted(listed)]


def versions(found: list[trajectory_pb2.Trajectory]) -> set[int]:
    return {s.policy_version for t in found for s in t.segments if s.logprobs}


async def test_episodes_publishing_and_the_death_of_the_server(
    serve: Serve,
    connect: Connect,
    model_server: RunningServer,
    published: list[PublishedWeights],
    weights: Callable[[int], PublishedWeights],
) -> None:
    new = weights(1)
    settings = {
        "policy_base_url": model_server.base_url,
        "policy_served_model": model_server.model,
        "policy_model": str(convert()),
        "model_cache": new.path.parent,
    }
    digest = hashlib.sha256(new.path.read_bytes()).hexdigest()
    async with serve(**settings) as (client, _):
        await client.create_run("before", run_spec(2))
        assert (await finished(client, "before")).progress.episodes_invalid == 0
        assert await client.publish_policy(1, str(new.path), digest, seconds=120) == 1
        await client.create_run("after", run_spec(2))
        assert (await finished(client, "after")).progress.episodes_invalid == 0
        assert versions(await trajectories(client, "before")) == {0}
        assert versions(await trajectories(client, "after")) == {1}

        published.append(new)
        other = await connect()  # a second service on the same server
        prompt = other.chat.prompt_ids("You are helpful.", "Tell me a long story.")
        await other.open_sequence("k", prompt, noise_seed=9)
        await client.create_run("cut", run_spec(4))
        while (await client.get_run("cut")).progress.policy_tokens == 0:  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.05)
        turn_cut = asyncio.create_task(turn(other, "k", [], 1.0, 1.0))
        await asyncio.sleep(0.5)
        model_server.kill()
        await asyncio.to_thread(model_server.start)
        said = await turn_cut
        assert said.policy_version == 1
        assert mismatch(full_model(other.config.model, new.path), prompt, said) < TOLERANCE
        await finished(client, "cut")
        cut = await trajectories(client, "cut")
        assert len(cut) == 8
        for trajectory in cut:
            verdict = trajectory.verdict
            assert verdict.WhichOneof("outcome") == "reward" or verdict.invalid.detail
        assert versions(cut) == {1}
