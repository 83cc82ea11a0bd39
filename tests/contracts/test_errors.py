"""The error model, each row of its table, against a real server."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from synthagent import errors
from synthagent.api.v1 import judge_pb2, judge_pb2_grpc, rollout_pb2, rollout_pb2_grpc
from synthagent.client import SynthAgentClient
from synthagent.failures import DETAILS, from_rpc_error
from synthagent.server import running
from synthagent.settings import Settings
from synthagent.statuses import STATUS
from tests.contracts.conftest import Probe

TREE = {
    errors.InvalidInput: ("INVALID_INPUT", grpc.StatusCode.INVALID_ARGUMENT),
    errors.MissingDeadline: ("MISSING_DEADLINE", grpc.StatusCode.INVALID_ARGUMENT),
    errors.NotFound: ("NOT_FOUND", grpc.StatusCode.NOT_FOUND),
    errors.Conflict: ("CONFLICT", grpc.StatusCode.ALREADY_EXISTS),
    errors.RequestIdReused: ("REQUEST_ID_REUSED", grpc.StatusCode.ALREADY_EXISTS),
    errors.PreconditionFailed: ("PRECONDITION_FAILED", grpc.StatusCode.FAILED_PRECONDITION),
    errors.Uncertified: ("UNCERTIFIED", grpc.StatusCode.FAILED_PRECONDITION),
    errors.StepOutOfRange: ("STEP_OUT_OF_RANGE", grpc.StatusCode.OUT_OF_RANGE),
    errors.LimitExceeded: ("LIMIT_EXCEEDED", grpc.StatusCode.RESOURCE_EXHAUSTED),
    errors.StorageFull: ("STORAGE_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED),
    errors.StateDiverged: ("STATE_DIVERGED", grpc.StatusCode.ABORTED),
    errors.Cancelled: ("CANCELLED", grpc.StatusCode.CANCELLED),
    errors.Unauthenticated: ("UNAUTHENTICATED", grpc.StatusCode.UNAUTHENTICATED),
    errors.PermissionDenied: ("PERMISSION_DENIED", grpc.StatusCode.PERMISSION_DENIED),
    errors.Corrupt: ("CORRUPT", grpc.StatusCode.DATA_LOSS),
    errors.ModelFault: ("MODEL_FAULT", grpc.StatusCode.ABORTED),
    errors.ModelRefused: ("MODEL_REFUSED", grpc.StatusCode.ABORTED),
    errors.ModelTruncated: ("MODEL_TRUNCATED", grpc.StatusCode.ABORTED),
    errors.ModelMalformed: ("MODEL_MALFORMED", grpc.StatusCode.ABORTED),
    errors.BackendUnavailable: ("BACKEND_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE),
    errors.ModelUnavailable: ("MODEL_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE),
}


def descendants(kind: type[errors.SynthAgentError]) -> set[type[errors.SynthAgentError]]:
    return {found for child in kind.__subclasses__() for found in {child} | descendants(child)}


def test_the_table_has_every_error_and_this_test_every_row() -> None:
    # Those of the contract: a process may add errors that never cross it, as the trainer does.
    tree = {
        kind for kind in descendants(errors.SynthAgentError) if kind.__module__ == errors.__name__
    }
    assert set(STATUS) == tree
    assert {kind: (kind.reason, code) for kind, code in STATUS.items()} == TREE


@pytest.fixture
async def channel(settings: Settings, probe: Probe) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        running(settings, [probe.register]) as server,
        grpc.aio.insecure_channel(server.address) as opened,
    ):
        yield opened


async def judged(channel: grpc.aio.Channel, timeout: float | None = 5.0) -> grpc.aio.AioRpcError:  # noqa: ASYNC109 - the deadline itself is under test
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await judge_pb2_grpc.RubricJudgeStub(channel).Judge(
            judge_pb2.JudgeRequest(), timeout=timeout
        )
    return failure.value


def details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailers: Any = error.trailing_metadata()  # pairs, whatever its stub says
    (data,) = [value for key, value in trailers if key == DETAILS]
    return status_pb2.Status.FromString(data)


@pytest.mark.parametrize("kind", TREE)
async def test_each_error_becomes_its_status_and_comes_back(
    kind: type[errors.SynthAgentError], channel: grpc.aio.Channel, probe: Probe
) -> None:
    async def fail() -> None:
        raise kind(
            "Nothing fits; give another.",
            field="events[3].agent",
            retry_after=timedelta(seconds=1.5),
            task_id="t-1",
        )

    probe.behaviour = fail
    error = await judged(channel)
    reason, code = TREE[kind]
    assert error.code() is code
    assert error.details() == "Nothing fits; give another."
    status = details(error)
    assert status.code == code.value[0]
    assert status.message == error.details()
    info, bad_request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    assert [
        detail.Unpack(message)
        for detail, message in zip(status.details, (info, bad_request, retry), strict=True)
    ] == [True, True, True]
    assert (info.reason, info.domain, dict(info.metadata)) == (
        reason,
        "synthagent.api.v1",
        {"task_id": "t-1"},
    )
    assert bad_request.field_violations[0].field == "events[3].agent"
    assert bad_request.field_violations[0].description == error.details()
    assert retry.retry_delay.ToTimedelta() == timedelta(seconds=1.5)

    again = from_rpc_error(error)
    assert type(again) is kind
    assert vars(again) == vars(
        kind(
            "Nothing fits; give another.",
            field="events[3].agent",
            retry_after=timedelta(seconds=1.5),
            task_id="t-1",
        )
    )


async def test_a_server_without_memory_is_as_good_as_away(
    channel: grpc.aio.Channel, probe: Probe
) -> None:
    async def fail() -> None:
        raise MemoryError

    probe.behaviour = fail
    error = await judged(channel)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert isinstance(from_rpc_error(error), errors.BackendUnavailable)


def test_a_call_that_the_servers_core_turned_away_may_be_made_again() -> None:
    """As gRPC ends calls that wait for a server with too many; `make load` meets real ones."""
    nothing = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, nothing, nothing, "CANCELLED", None)
    assert isinstance(from_rpc_error(error), errors.BackendUnavailable)


async def test_details_hold_only_what_was_given(channel: grpc.aio.Channel, probe: Probe) -> None:
    async def fail() -> None:
        raise errors.NotFound("There is no such task.")

    probe.behaviour = fail
    (detail,) = details(await judged(channel)).details
    assert detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)


@pytest.mark.parametrize(
    "error", [RuntimeError("password=hunter2"), errors.SynthAgentError("password=hunter2")]
)
async def test_an_internal_error_hides_its_detail_and_logs_it(
    error: Exception,
    channel: grpc.aio.Channel,
    probe: Probe,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def fail() -> None:
        raise error

    probe.behaviour = fail
    failure = await judged(channel)
    assert failure.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(failure)
    assert list(details(failure).details) == []
    output = capfd.readouterr()
    assert "hunter2" in output.out + output.err
    assert type(from_rpc_error(failure)) is errors.SynthAgentError


async def test_a_unary_call_needs_a_deadline(channel: grpc.aio.Channel, probe: Probe) -> None:
    error = await judged(channel, timeout=None)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(from_rpc_error(error), errors.MissingDeadline)
    assert not probe.started.is_set()


async def test_a_stream_needs_no_deadline_and_fails_like_a_unary_call(
    channel: grpc.aio.Channel, probe: Probe
) -> None:
    async def fail() -> None:
        raise errors.NotFound("There is no such run.", field="run_id")

    probe.behaviour = fail
    call = rollout_pb2_grpc.RolloutStub(channel).WatchRun(rollout_pb2.WatchRunRequest(run_id="r"))
    first = await call.read()
    assert isinstance(first, rollout_pb2.WatchRunResponse)
    assert first.run.run_id == "r"
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()
    assert isinstance(from_rpc_error(failure.value), errors.NotFound)


async def test_what_is_left_of_a_deadline_is_passed_on(settings: Settings, probe: Probe) -> None:
    """The judge calls the rollout service, which sleeps; the judge's caller set the time."""
    async with running(settings, [probe.register]) as server:
        client = server.resources.client

        async def call_on() -> None:
            probe.behaviour = lambda: asyncio.sleep(60)
            async for _ in client.watch_run("r"):
                pass

        probe.behaviour = call_on
        async with grpc.aio.insecure_channel(server.address) as channel:
            error = await judged(channel, timeout=0.8)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert probe.seconds_left is not None
    assert 0 < probe.seconds_left < 0.8


async def test_a_server_that_is_not_there_is_unavailable(unused_address: str) -> None:
    async with SynthAgentClient(unused_address, timeout_seconds=3.0) as client:
        with pytest.raises(errors.BackendUnavailable):
            await client.get_run("r")


async def test_a_method_that_a_server_lacks_is_a_precondition(
    settings: Settings, probe: Probe
) -> None:
    async with running(settings, [probe.register]) as server:
        with pytest.raises(errors.PreconditionFailed, match="UNIMPLEMENTED"):
            await server.resources.client.get_task("t")
