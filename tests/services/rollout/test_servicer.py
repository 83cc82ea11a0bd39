import asyncio
from pathlib import Path
from typing import Any

import pytest

from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.api.v1 import task_pb2, trajectory_pb2
from synthagent.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    SynthAgentError,
)
from tests.databases import on_both_databases
from tests.services.rollout.conftest import Serve, certified_tasks, finished, selection

GOLD, NOOP = pb.REFERENCE_AGENT_GOLD, pb.REFERENCE_AGENT_NOOP
CARELESS, FORBIDDEN = pb.REFERENCE_AGENT_CARELESS, pb.REFERENCE_AGENT_FORBIDDEN
PESTERER = pb.REFERENCE_AGENT_PESTERER
ANSWERED = trajectory_pb2.EPISODE_OUTCOME_ANSWERED


async def test_every_reference_agent_earns_what_it_should(serve: Serve) -> None:
    async with serve() as (client, _):
        means = {}
        for agent in (GOLD, NOOP, CARELESS, FORBIDDEN, PESTERER):
            spec = pb.RunSpec(reference=agent, tasks=selection(), group_size=2, max_turns=40)
            await client.create_run(f"agent-{agent}", spec)
        for agent in (GOLD, NOOP, CARELESS, FORBIDDEN, PESTERER):
            run = await finished(client, f"agent-{agent}")
            assert run.state == pb.RUN_STATE_SUCCEEDED
            assert run.progress.episodes_ended == run.progress.episodes_total == 10
            assert run.progress.episodes_invalid == 0
            means[agent] = run.progress.mean_reward
        assert means[GOLD] == means[PESTERER] == 1.0
        assert means[NOOP] == means[FORBIDDEN] == 0.0
        assert 0.0 < means[CARELESS] < 1.0


@on_both_databases
async def test_a_trajectory_tells_all_that_happened(serve: Serve) -> None:
    async with serve() as (client, _):
        await client.create_run("one", pb.RunSpec(reference=GOLD, tasks=selection(1)))
        await finished(client, "one")
        trajectory = await client.get_trajectory("one.0.0")
        assert (trajectory.run_id, trajectory.group_id, trajectory.index) == ("one", "one.0", 0)
        assert trajectory.agent == "gold"
        assert trajectory.split == task_pb2.SPLIT_TRAIN
        assert trajectory.outcome == ANSWERED
        assert trajectory.verdict.reward == 1.0
        assert not trajectory.segments
        assert [event.sequence for event in trajectory.events] == list(range(12))
        kinds = [event.WhichOneof("body") for event in trajectory.events]
        assert kinds == [
            *("agent", "tool", "agent", "user", "agent", "tool"),
            *("agent", "user", "agent", "tool", "agent", "end"),
        ]
        times = [event.recorded_at.ToMicroseconds() for event in trajectory.events]
        assert times == sorted(times)
        assert trajectory.started_at.ToMicroseconds() <= times[0]
        assert times[-1] <= trajectory.ended_at.ToMicroseconds()


async def test_a_run_without_the_information_gap_asks_nothing_and_says_so(serve: Serve) -> None:
    async with serve() as (client, _):
        spec = pb.RunSpec(reference=GOLD, tasks=selection(), facts_in_instruction=True)
        for preset, mean in (("paper", 0.5), ("no_interaction", 1.0)):
            spec.reward_preset = preset
            name = f"told-{preset.replace('_', '-')}"
            assert (await client.create_run(name, spec)).spec.facts_in_instruction
            run = await finished(client, name)
            assert (run.progress.mean_reward, run.progress.episodes_invalid) == (mean, 0)
        trajectory = await client.get_trajectory("told-paper.0.0")
        assert trajectory.facts_in_instruction
        assert not any(event.HasField("user") for event in trajectory.events)
        spec.facts_in_instruction = False
        with pytest.raises(Conflict, match="another specification"):
            await client.create_run("told-no-interaction", spec)


@on_both_databases
async def test_trajectories_are_listed_as_they_ended(serve: Serve) -> None:
    async with serve() as (client, _):
        await client.create_run("all", pb.RunSpec(reference=GOLD, tasks=selection(), group_size=3))
        await finished(client, "all")
        listed = [item async for item in client.list_trajectories("all")]
        assert len({item.trajectory_id for item in listed}) == len(listed) == 15
        ended = [item.ended_at.ToMicroseconds() for item in listed]
        assert ended == sorted(ended)
        assert all(item.verdict.reward == 1.0 and not item.events for item in listed)
        pages: list[trajectory_pb2.Trajectory] = []
        token = ""
        while True:
            request = pb.ListTrajectoriesRequest(run_id="all", page_size=4, page_token=token)
            page = await client._unary(client._rollout.ListTrajectories, request)
            pages += page.trajectories
            token = page.next_page_token
            if not token:
                break
        assert pages == listed


@on_both_databases
async def test_a_run_is_created_once(serve: Serve) -> None:
    async with serve() as (client, _):
        spec = pb.RunSpec(reference=NOOP, tasks=selection(2), seed=2**64 - 1)
        first = await client.create_run("twice", spec)
        assert (await client.create_run("twice", spec)).created_at == first.created_at
        spelled_out = pb.RunSpec()
        spelled_out.CopyFrom(spec)
        spelled_out.group_size, spelled_out.max_turns, spelled_out.reward_preset = 1, 16, "paper"
        assert (await client.create_run("twice", spelled_out)).spec == spelled_out
        spec.seed = 1
        with pytest.raises(Conflict, match="another specification"):
            await client.create_run("twice", spec)


@on_both_databases
async def test_runs_are_listed_newest_first(serve: Serve) -> None:
    async with serve() as (client, _):
        for name in ("a", "b", "c"):
            await client.create_run(name, pb.RunSpec(reference=NOOP, tasks=selection(1)))
        assert [run.run_id async for run in client.list_runs()] == ["c", "b", "a"]
        request = pb.ListRunsRequest(page_size=2)
        page = await client._unary(client._rollout.ListRuns, request)
        request.page_token = page.next_page_token
        last = await client._unary(client._rollout.ListRuns, request)
        assert [run.run_id for run in (*page.runs, *last.runs)] == ["c", "b", "a"]
        assert not last.next_page_token


@on_both_databases
async def test_a_selection_is_drawn_by_the_seed(serve: Serve) -> None:
    async with serve() as (client, _):
        chosen = {}
        for name, seed in (("x", 1), ("y", 1), ("z", 4)):
            tasks = pb.TaskSelection(split=task_pb2.SPLIT_TRAIN, difficulty="easy", count=3)
            await client.create_run(name, pb.RunSpec(reference=NOOP, tasks=tasks, seed=seed))
            await finished(client, name)
            chosen[name] = [
                (await client.get_trajectory(f"{name}.{group}.0")).task_id for group in range(3)
            ]
        assert chosen["x"] == chosen["y"]
        assert chosen["x"] != chosen["z"]
        assert set(chosen["x"]) <= {task.task_id for task in certified_tasks()}


async def test_limits_of_turns_end_an_episode(serve: Serve) -> None:
    async with serve() as (client, _):
        spec = pb.RunSpec(reference=GOLD, tasks=selection(1), max_turns=3)
        await client.create_run("short", spec)
        await finished(client, "short")
        trajectory = await client.get_trajectory("short.0.0")
        assert trajectory.outcome == trajectory_pb2.EPISODE_OUTCOME_TURN_LIMIT
        assert sum(event.HasField("agent") for event in trajectory.events) == 3
        assert 0.0 < trajectory.verdict.reward < 1.0


@on_both_databases
async def test_cancelling_stops_a_run_and_keeps_what_ended(serve: Serve) -> None:
    async with serve(max_concurrent_episodes=2) as (client, _):
        spec = pb.RunSpec(reference=GOLD, tasks=selection(), group_size=100)
        await client.create_run("long", spec)
        async for run in client.watch_run("long"):
            if run.progress.episodes_ended:
                break
        cancelled = await client.cancel_run("long")
        assert cancelled.state == pb.RUN_STATE_CANCELLED
        await asyncio.sleep(0.3)
        later = await client.cancel_run("long")
        assert 0 < later.progress.episodes_ended < 500
        assert later.progress.episodes_ended <= cancelled.progress.episodes_ended + 2
        assert [run.state async for run in client.watch_run("long")] == [pb.RUN_STATE_CANCELLED]


def _spec(**fields: Any) -> pb.RunSpec:
    return pb.RunSpec(**{"reference": NOOP, "tasks": selection(1), **fields})


@pytest.mark.parametrize(
    ("run_id", "spec", "error", "field"),
    [
        ("", _spec(), InvalidInput, "run_id"),
        ("Upper", _spec(), InvalidInput, "run_id"),
        ("a" * 49, _spec(), InvalidInput, "run_id"),
        ("r", pb.RunSpec(tasks=selection(1)), InvalidInput, "spec"),
        ("r", _spec(reference=0), InvalidInput, "spec.reference"),
        ("r", pb.RunSpec(reference=NOOP), InvalidInput, "spec.tasks"),
        ("r", _spec(tasks=pb.TaskSelection()), InvalidInput, "spec.tasks"),
        ("r", _spec(tasks=pb.TaskSelection(task_ids=["a"], count=1)), InvalidInput, "spec.tasks"),
        ("r", _spec(tasks=pb.TaskSelection(task_ids=["a", "a"])), InvalidInput, "spec.tasks"),
        (
            "r",
            _spec(tasks=pb.TaskSelection(task_ids=["nowhere"])),
            NotFound,
            "spec.tasks.task_ids[0]",
        ),
        (
            "r",
            _spec(tasks=pb.TaskSelection(split=task_pb2.SPLIT_HELD_OUT)),
            PreconditionFailed,
            "spec.tasks",
        ),
        (
            "r",
            _spec(tasks=pb.TaskSelection(split=task_pb2.SPLIT_TRAIN, count=99)),
            PreconditionFailed,
            "spec.tasks",
        ),
        ("r", _spec(group_size=1025), InvalidInput, "spec.group_size"),
        ("r", _spec(max_turns=1001), InvalidInput, "spec.max_turns"),
        ("r", _spec(reward_preset="generous"), InvalidInput, "spec"),
        ("r", _spec(training=pb.TrainingSteps(steps=1)), InvalidInput, "spec.training"),
        ("r", pb.RunSpec(policy=pb.PolicyAgent(), tasks=selection(1)), InvalidInput, "sampling"),
    ],
)
async def test_a_specification_that_does_not_fit_is_refused(
    serve: Serve, run_id: str, spec: pb.RunSpec, error: type[SynthAgentError], field: str
) -> None:
    async with serve("rollout") as (client, _):
        with pytest.raises(error) as refused:
            await client.create_run(run_id, spec)
        assert field in refused.value.field
        with pytest.raises(NotFound):
            await client.get_run(run_id)


async def test_what_is_not_there_is_not_found(serve: Serve) -> None:
    async with serve("rollout") as (client, _):
        for call in (
            client.get_run("nothing"),
            client.cancel_run("nothing"),
            client.get_trajectory("nothing.0.0"),
            client._unary(
                client._rollout.ListTrajectories, pb.ListTrajectoriesRequest(run_id="nothing")
            ),
        ):
            with pytest.raises(NotFound):
                await call
        for stream in (client.watch_run("nothing"), client.stream_batch("nothing", 0)):
            with pytest.raises(NotFound):
                await anext(stream)
        with pytest.raises(InvalidInput, match="page_token"):
            await client._unary(client._rollout.ListRuns, pb.ListRunsRequest(page_token="x"))


async def test_a_policy_that_is_missing_is_told_in_one_sentence(
    serve: Serve, tmp_path: Path
) -> None:
    policy = pb.PolicyAgent(
        sampling=trajectory_pb2.SamplingSettings(temperature=1.0, max_turn_tokens=8)
    )
    async with serve("rollout", model_cache=tmp_path) as (client, _):
        with pytest.raises(PreconditionFailed, match="make model"):
            await client.create_run("p", pb.RunSpec(policy=policy, tasks=selection(1)))
        policy.policy = "other"
        with pytest.raises(NotFound, match="samples with 'default'"):
            await client.create_run("p", pb.RunSpec(policy=policy, tasks=selection(1)))
        assert [run async for run in client.list_runs()] == []
