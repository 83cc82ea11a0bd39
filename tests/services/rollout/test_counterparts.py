from datetime import timedelta
from typing import Any

import pytest

from services.rollout import counterparts
from services.rollout.counterparts import calls_so_far, request_id_of
from services.rubric_judge.servicer import RubricJudgeServicer
from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.api.v1 import trajectory_pb2
from synthagent.errors import (
    BackendUnavailable,
    LimitExceeded,
    ModelUnavailable,
    StorageFull,
)
from synthagent.worlds.engine import compile_world
from synthagent.worlds.plans import run_plan
from tests.example_task import example_task
from tests.services.rollout.conftest import SERVICES, Serve, finished, selection

_FAULTS = {
    "tool_mock": trajectory_pb2.INVALID_REASON_TOOL_FAULT,
    "user_simulator": trajectory_pb2.INVALID_REASON_USER_FAULT,
    "rubric_judge": trajectory_pb2.INVALID_REASON_JUDGE_FAULT,
}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counterparts, "_FIRST_PAUSE_SECONDS", 0.02)


@pytest.mark.parametrize("missing", _FAULTS)
async def test_a_fault_of_the_machinery_is_no_reward(serve: Serve, missing: str) -> None:
    there = [name for name in SERVICES if name != missing]
    async with serve(*there) as (client, server):
        spec = pb.RunSpec(reference=pb.REFERENCE_AGENT_GOLD, tasks=selection(2))
        await client.create_run("faulty", spec)
        run = await finished(client, "faulty")
        assert run.state == pb.RUN_STATE_SUCCEEDED
        assert run.progress.episodes_ended == run.progress.episodes_invalid == 2
        assert run.progress.mean_reward == run.progress.reward_sem == 0.0
        trajectory = await client.get_trajectory("faulty.0.0")
        assert trajectory.outcome == trajectory_pb2.EPISODE_OUTCOME_FAULT
        assert trajectory.verdict.WhichOneof("outcome") == "invalid"
        assert trajectory.verdict.invalid.reason == _FAULTS[missing]
        end = trajectory.events[-1].end
        assert end.invalid_reason == _FAULTS[missing]
        assert end.detail == trajectory.verdict.invalid.detail != ""
        value = server.resources.metrics.registry.get_sample_value
        reason = trajectory_pb2.InvalidReason.Name(_FAULTS[missing]).removeprefix("INVALID_REASON_")
        assert value("synthagent_episodes_invalid_total", {"reason": reason.lower()}) == 2.0


async def test_one_faulty_episode_does_not_touch_the_others(serve: Serve) -> None:
    async with serve("tool_mock", "rubric_judge", "rollout") as (client, _):
        careless = pb.RunSpec(reference=pb.REFERENCE_AGENT_CARELESS, tasks=selection())
        gold = pb.RunSpec(reference=pb.REFERENCE_AGENT_GOLD, tasks=selection())
        await client.create_run("asks", gold)
        await client.create_run("never-asks", careless)
        assert (await finished(client, "asks")).progress.episodes_invalid == 5
        assert (await finished(client, "never-asks")).progress.episodes_invalid == 0


SOON = timedelta(seconds=0.1)


@pytest.mark.parametrize(
    ("error", "invalid"),
    [
        (StorageFull("The disk is full."), 0),
        (LimitExceeded("Too many sessions.", retry_after=SOON), 0),
        (BackendUnavailable("The database is away."), 0),
        (MemoryError("There is no memory."), 0),
        (KeyError("A replica is broken."), 0),
        (LimitExceeded("The message is too large."), 2),  # waiting does not make it smaller
        (ModelUnavailable("The model is away."), 2),  # waited for by the service already
    ],
    ids=str,
)
async def test_an_episode_waits_for_what_may_pass(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, error: Exception, invalid: int
) -> None:
    # gRPC itself makes UNAVAILABLE calls five times; others are made as often as we make them.
    judge, refusals = RubricJudgeServicer.Judge, [error] * (40 if invalid else 4)

    async def refuse_at_first(*arguments: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return await judge(*arguments)

    monkeypatch.setattr(RubricJudgeServicer, "Judge", refuse_at_first)
    async with serve() as (client, _):
        spec = pb.RunSpec(reference=pb.REFERENCE_AGENT_GOLD, tasks=selection(2))
        await client.create_run("refused", spec)
        progress = (await finished(client, "refused")).progress
        assert (progress.episodes_ended, progress.episodes_invalid) == (2, invalid)


def test_calls_so_far_are_those_with_a_result() -> None:
    task = example_task()
    events = run_plan(compile_world(task.world), task, task.gold_plans[0])
    tools = [step.tool for step in task.gold_plans[0].steps]
    for length in range(len(events) + 1):
        history, state_hash = calls_so_far(events[:length])
        results = [event.body for event in events[:length] if event.body.kind == "tool"]
        assert [call.tool for call in history] == tools[: len(results)]
        assert state_hash == (results[-1].state_hash if results else "")


def test_request_ids_are_stable_short_and_apart() -> None:
    ids = {request_id_of(f"run.{n}.0", sequence) for n in range(20) for sequence in range(20)}
    assert len(ids) == 400
    assert {len(request_id) for request_id in ids} == {64}
    assert request_id_of("run.0.0", 3) == request_id_of("run.0.0", 3)
