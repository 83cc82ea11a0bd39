"""Each limit of a caller, at a real server: refused with what was reached and when to ask again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import pytest

from synthagent import errors
from synthagent.api.v1 import (
    judge_pb2,
    judge_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
    task_pb2,
    task_pb2_grpc,
    tool_pb2,
    tool_pb2_grpc,
    trajectory_pb2,
    user_pb2,
    user_pb2_grpc,
)
from synthagent.failures import from_rpc_error
from synthagent.security.access import Role
from synthagent.security.callers import Caller, CallerLimits
from synthagent.security.limits import Limits
from synthagent.server import Register, Resources, Service, running
from synthagent.settings import Settings
from tests.contracts.conftest import Probe
from tests.synthagent.security.conftest import People

EVENTS = [trajectory_pb2.Event(sequence=number) for number in range(4)]
CALLS = [tool_pb2.RecordedCall(tool="find_member", arguments_json="{}")] * 3


@dataclass
class Served:
    channel: grpc.aio.Channel
    refusals: Callable[[str], float]
    """Refusals counted so far for a reason, over all methods."""


@asynccontextmanager
async def served(settings: Settings, registers: Sequence[Register]) -> AsyncIterator[Served]:
    async with (
        running(settings, registers) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):

        def refusals(reason: str) -> float:
            [metric] = server.resources.metrics.refusals.collect()
            return sum(
                sample.value
                for sample in metric.samples
                if sample.name.endswith("_total") and sample.labels["reason"] == reason
            )

        yield Served(channel, refusals)


async def refused(call: Awaitable[object], limit: str, most: int) -> errors.LimitExceeded:
    """The refusal, which names the limit and the time after which to ask again."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    error = from_rpc_error(failure.value)
    assert isinstance(error, errors.LimitExceeded)
    assert error.metadata == {"limit": limit, "most": str(most)}
    assert error.retry_after is not None
    assert error.retry_after >= timedelta(seconds=1)
    return error


def limited(settings: Settings, **limits: int) -> Settings:
    return settings.model_copy(update={f"caller_max_{name}": n for name, n in limits.items()})


async def test_calls_in_flight(settings: Settings) -> None:
    probe = Probe(behaviour=lambda: asyncio.sleep(60))
    async with served(limited(settings, in_flight=2), [probe.register]) as server:
        judge = judge_pb2_grpc.RubricJudgeStub(server.channel)
        running_calls = [judge.Judge(judge_pb2.JudgeRequest(), timeout=30) for _ in range(2)]
        await asyncio.sleep(0.1)
        await refused(judge.Judge(judge_pb2.JudgeRequest(), timeout=5), "in_flight", 2)
        assert server.refusals("in_flight") == 1
        for call in running_calls:
            call.cancel()
        probe.behaviour = None
        await asyncio.sleep(0.1)
        await judge.Judge(judge_pb2.JudgeRequest(), timeout=5)  # there is room again


async def test_streams(settings: Settings) -> None:
    probe = Probe(behaviour=lambda: asyncio.sleep(60))
    async with served(limited(settings, streams=1), [probe.register]) as server:
        rollout = rollout_pb2_grpc.RolloutStub(server.channel)
        first = rollout.WatchRun(rollout_pb2.WatchRunRequest(run_id="r"))
        await first.read()
        second = rollout.WatchRun(rollout_pb2.WatchRunRequest(run_id="r"))
        await refused(second.read(), "streams", 1)
        # Unary calls are no streams.
        probe.behaviour = None
        judge = judge_pb2_grpc.RubricJudgeStub(server.channel)
        await judge.Judge(judge_pb2.JudgeRequest(), timeout=5)
        assert server.refusals("streams") == 1
        first.cancel()
        await asyncio.sleep(0.1)
        third = rollout.WatchRun(rollout_pb2.WatchRunRequest(run_id="r"))
        await third.read()


async def test_sessions(settings: Settings) -> None:
    probe = Probe()
    async with served(limited(settings, sessions=1), [probe.register]) as server:
        tools: Any = tool_pb2_grpc.ToolMockStub(server.channel)
        first = tools.Session()
        await first.write(tool_pb2.SessionRequest())
        await first.read()
        await refused(tools.Session().read(), "sessions", 1)
        watch = rollout_pb2_grpc.RolloutStub(server.channel).WatchRun(
            rollout_pb2.WatchRunRequest(run_id="r")
        )
        await watch.read()  # another stream is no session
        await first.done_writing()
        await first.read()
        second = tools.Session()
        await second.write(tool_pb2.SessionRequest())
        await second.read()
        assert server.refusals("sessions") == 1


async def test_message_sizes_of_calls_and_of_streams(settings: Settings) -> None:
    async with served(limited(settings, message_bytes=1000), [Probe().register]) as server:
        judge = judge_pb2_grpc.RubricJudgeStub(server.channel)
        await judge.Judge(judge_pb2.JudgeRequest(task_id="x" * 900), timeout=5)
        large = judge_pb2.JudgeRequest(task_id="x" * 1000)
        await refused(judge.Judge(large, timeout=5), "message_bytes", 1000)
        tools: Any = tool_pb2_grpc.ToolMockStub(server.channel)
        session = tools.Session()
        await session.write(tool_pb2.SessionRequest())
        await session.read()
        await session.write(tool_pb2.SessionRequest(call=tool_pb2.Call(tool="x" * 1000)))
        await refused(session.read(), "message_bytes", 1000)
        assert server.refusals("message_bytes") == 2


class Tasks(task_pb2_grpc.TaskSynthesisServicer):
    """Answers at once what takes processes and seconds to answer truly."""

    async def SynthesizeTasks(  # noqa: N802 - the contract's name
        self, request: Any, context: Any
    ) -> AsyncIterator[task_pb2.SynthesizeTasksResponse]:
        yield task_pb2.SynthesizeTasksResponse()

    async def ImportTasks(  # noqa: N802 - the contract's name
        self, request: Any, context: Any
    ) -> task_pb2.ImportTasksResponse:
        return task_pb2.ImportTasksResponse()


async def register_tasks(server: grpc.aio.Server, _resources: Resources) -> Service:
    servicer = Tasks()  # type: ignore[abstract]  # the rest is not asked for
    task_pb2_grpc.add_TaskSynthesisServicer_to_server(servicer, server)
    return Service(("synthagent.api.v1.TaskSynthesis",))


async def register_user(server: grpc.aio.Server, _resources: Resources) -> Service:
    servicer = user_pb2_grpc.UserSimulatorServicer()  # type: ignore[abstract]  # never gets so far
    user_pb2_grpc.add_UserSimulatorServicer_to_server(servicer, server)
    return Service(("synthagent.api.v1.UserSimulator",))


async def test_the_length_of_episodes(settings: Settings) -> None:
    registers = [Probe().register, register_user]
    async with served(limited(settings, episode_events=2), registers) as server:
        channel = server.channel
        user = user_pb2_grpc.UserSimulatorStub(channel)
        judge = judge_pb2_grpc.RubricJudgeStub(channel)
        tools: Any = tool_pb2_grpc.ToolMockStub(channel)
        rollout = rollout_pb2_grpc.RolloutStub(channel)
        spec = rollout_pb2.RunSpec(max_turns=3)
        for call in (
            user.Reply(user_pb2.ReplyRequest(request_id="r", events=EVENTS), timeout=5),
            judge.Judge(judge_pb2.JudgeRequest(request_id="r", events=EVENTS), timeout=5),
            judge.JudgeCriterion(judge_pb2.JudgeCriterionRequest(events=EVENTS), timeout=5),
            tools.CallTool(tool_pb2.CallToolRequest(history=CALLS), timeout=5),
            rollout.CreateRun(rollout_pb2.CreateRunRequest(run_id="r", spec=spec), timeout=5),
        ):
            await refused(call, "episode_events", 2)
        session = tools.Session()
        opened = tool_pb2.OpenSession(task_id="t", history=CALLS)
        await session.write(tool_pb2.SessionRequest(open=opened))
        await refused(session.read(), "episode_events", 2)

        session = tools.Session()
        del opened.history[:]
        await session.write(tool_pb2.SessionRequest(open=opened))
        for sequence in range(3):
            assert isinstance(await session.read(), tool_pb2.SessionResponse)
            call = tool_pb2.Call(sequence=sequence, tool="find_member", arguments_json="{}")
            await session.write(tool_pb2.SessionRequest(call=call))
        await refused(session.read(), "episode_events", 2)
        assert server.refusals("episode_events") == 7


async def test_tasks_of_an_hour(settings: Settings) -> None:
    async with served(limited(settings, tasks_per_hour=3), [register_tasks]) as server:
        tasks = task_pb2_grpc.TaskSynthesisStub(server.channel)

        def ask(request_id: str, count: int) -> Any:
            return tasks.SynthesizeTasks(
                task_pb2.SynthesizeTasksRequest(
                    request_id=request_id, count=count, split=task_pb2.SPLIT_TRAIN
                )
            )

        for _ in range(2):  # the same request counts once
            async for _response in ask("a", 2):
                pass
        error = await refused(ask("b", 2).read(), "tasks_per_hour", 3)
        assert error.retry_after is not None
        assert timedelta(minutes=59) < error.retry_after <= timedelta(hours=1)
        request = task_pb2.ImportTasksRequest(request_id="i", tasks=[task_pb2.Task()] * 2)
        await refused(tasks.ImportTasks(request, timeout=5), "tasks_per_hour", 3)
        async for _response in ask("c", 1):
            pass
        assert server.refusals("tasks_per_hour") == 2


async def test_callers_have_limits_of_their_own(settings: Settings, people: People) -> None:
    people.add("narrow", "agent", "[caller.limits]\nsessions = 1")
    people.add("wide", "agent")
    people.add("rollout", "service", "[caller.limits]\nsessions = 1")
    probe = Probe()
    guarded = limited(settings, sessions=2).model_copy(update={"callers_file": people.path})
    async with served(guarded, [probe.register]) as server:
        tools: Any = tool_pb2_grpc.ToolMockStub(server.channel)
        kept = []
        for name, most in (("narrow", 1), ("wide", 2)):
            for _ in range(most):
                kept.append(tools.Session(metadata=people.metadata(name)))
                await kept[-1].write(tool_pb2.SessionRequest())
                await kept[-1].read()
            extra = tools.Session(metadata=people.metadata(name))
            error = await refused(extra.read(), "sessions", most)
            assert repr(name) in error.message
        for _ in range(4):  # acts for others, who have limits
            kept.append(tools.Session(metadata=people.metadata("rollout")))
            await kept[-1].write(tool_pb2.SessionRequest())
            await kept[-1].read()


def test_tasks_are_forgotten_after_an_hour() -> None:
    now = 0.0
    limits = Limits(clock=lambda: now)
    caller = Caller("a", Role.OPERATOR, CallerLimits(tasks_per_hour=10))
    path = "/synthagent.api.v1.TaskSynthesis/SynthesizeTasks"

    def ask(request_id: str, count: int) -> None:
        request = task_pb2.SynthesizeTasksRequest(request_id=request_id, count=count)
        limits.check(caller, path, request)

    ask("a", 6)
    now = 1800.0
    ask("b", 4)
    with pytest.raises(errors.LimitExceeded) as caught:
        ask("c", 1)
    assert caught.value.retry_after == timedelta(seconds=1800)
    now = 3600.0
    ask("c", 6)
    with pytest.raises(errors.LimitExceeded):
        ask("d", 1)
