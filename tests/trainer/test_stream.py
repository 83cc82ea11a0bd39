"""Runs as they are asked for, and batches as they are fetched: in time, in advance, again."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from synthagent.api.v1 import rollout_pb2, rollout_pb2_grpc
from synthagent.errors import BackendUnavailable, SynthAgentError
from tests.trainer.scripted_rollout import ScriptedRollout
from trainer import config
from trainer.stream import RolloutLink, evaluation_spec, gold_spec, training_spec


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


def test_an_ablation_is_trained_with_and_evaluated_without() -> None:
    settings = config.parse(
        {
            "rl": {"reward_preset": "no_interaction", "facts_in_instruction": True},
            "evaluation": {"reward_preset": "paper"},
        }
    )
    gold = gold_spec(settings.tasks, settings.rl, 1)
    training = training_spec(settings.tasks, settings.rl, "default", 1, 0)
    for spec in (gold, training):
        assert spec.facts_in_instruction
        assert spec.reward_preset == "no_interaction"
    evaluated = evaluation_spec(settings.evaluation, settings.rl, "default", 1)
    assert not evaluated.facts_in_instruction
    assert evaluated.reward_preset == "paper"


def test_an_unreachable_service_is_said_to_be() -> None:
    settings = config.RolloutSettings(address="127.0.0.1:9", timeout_seconds=1)
    with RolloutLink(settings) as link, pytest.raises(BackendUnavailable):
        link.create_run("r", rollout_pb2.RunSpec())


@asynccontextmanager
async def serving(script: ScriptedRollout, port: int = 0) -> AsyncIterator[int]:
    script.runs["r"] = rollout_pb2.RunSpec()
    server = grpc.aio.server()
    rollout_pb2_grpc.add_RolloutServicer_to_server(script, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=None)


def settings_of(port: int, **more: float) -> config.RolloutSettings:
    return config.RolloutSettings.model_validate({"address": f"127.0.0.1:{port}", **more})


async def test_the_next_batch_comes_while_this_one_trains() -> None:
    asked: list[object] = []
    script = ScriptedRollout(batch_seconds=0.3, on_call=asked.append)

    def train(link: RolloutLink) -> None:
        first = link.stream_batch("r", 0, rank=0, world_size=1)
        assert first.fetch_seconds >= 0.3
        link.fetch_ahead("r", 1, rank=0, world_size=1)
        time.sleep(1.0)  # training
        started = time.perf_counter()
        second = link.stream_batch("r", 1, rank=0, world_size=1)
        waited = time.perf_counter() - started
        assert waited < second.fetch_seconds - 0.2  # most of it went by beside the training
        assert len(asked) == 2
        again = link.stream_batch("r", 1, rank=0, world_size=1)
        assert again.trajectory_ids == second.trajectory_ids != first.trajectory_ids
        ids = [e.sample.sample_id for group in second.groups for e in group]
        assert ids == list(second.trajectory_ids)

    async with serving(script) as port:
        with await asyncio.to_thread(RolloutLink, settings_of(port)) as link:
            await asyncio.to_thread(train, link)


async def test_what_failed_in_advance_is_fetched_anew() -> None:
    script = ScriptedRollout(fail_at_step=1)

    def train(link: RolloutLink) -> None:
        link.fetch_ahead("r", 1, rank=0, world_size=1)
        time.sleep(0.5)
        with pytest.raises(SynthAgentError, match="the script says so"):
            link.stream_batch("r", 1, rank=0, world_size=1)
        link.fetch_ahead("r", 1, rank=0, world_size=1)
        time.sleep(0.5)
        script.fail_at_step = None
        assert link.stream_batch("r", 1, rank=0, world_size=1).batch_id == "r.step-1"

    async with serving(script) as port:
        with await asyncio.to_thread(RolloutLink, settings_of(port)) as link:
            await asyncio.to_thread(train, link)


async def test_a_service_that_restarts_is_waited_for() -> None:
    async with serving(ScriptedRollout()) as port:
        link = await asyncio.to_thread(RolloutLink, settings_of(port, patience_seconds=30))
        await asyncio.to_thread(link.stream_batch, "r", 0, rank=0, world_size=1)
    with link:
        waiting = asyncio.create_task(
            asyncio.to_thread(link.stream_batch, "r", 1, rank=0, world_size=1)
        )
        await asyncio.sleep(0.3)
        async with serving(ScriptedRollout(), port):
            assert (await waiting).batch_id == "r.step-1"


async def test_waiting_ends_with_the_timeout_and_says_so() -> None:
    async with serving(ScriptedRollout(batch_seconds=60)) as port:
        settings = settings_of(port, batch_timeout_seconds=0.3)
        with await asyncio.to_thread(RolloutLink, settings) as link:
            link.fetch_ahead("r", 0, rank=0, world_size=1)
            with pytest.raises(BackendUnavailable, match="was silent for 0 s; see its log"):
                await asyncio.to_thread(link.stream_batch, "r", 0, rank=0, world_size=1)


_INTERRUPTED = """
import sys
from trainer.config import RolloutSettings
from trainer.stream import RolloutLink
try:
    with RolloutLink(RolloutSettings(address=sys.argv[1])) as link:
        link.fetch_ahead("r", 0, rank=0, world_size=1)
        print("waiting", flush=True)
        link.stream_batch("r", 0, rank=0, world_size=1)
except KeyboardInterrupt:
    sys.exit(130)
"""


async def test_an_interrupt_ends_the_wait_at_once() -> None:
    async with serving(ScriptedRollout(batch_seconds=600)) as port:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _INTERRUPTED, f"127.0.0.1:{port}", stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"waiting\n"
        await asyncio.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 30) == 130
