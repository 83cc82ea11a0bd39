"""Health, reflection, metrics and draining, against a real server."""

import asyncio
import contextlib
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from synthagent import errors
from synthagent.api.v1 import judge_pb2, judge_pb2_grpc, tool_pb2, tool_pb2_grpc
from synthagent.failures import from_rpc_error
from synthagent.server import PortTaken, running
from synthagent.settings import Settings, load_settings
from tests.contracts.conftest import Probe

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextlib.asynccontextmanager
async def stopping(settings: Settings, probe: Probe) -> AsyncIterator[tuple[Any, Any]]:
    """A server in a task of its own, and the event that makes it drain."""
    ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def serve() -> None:
        async with running(settings, [probe.register]) as server:
            ready.set_result(server)
            await stop.wait()

    serving = asyncio.create_task(serve())
    server = await ready
    try:
        yield server, stop
    finally:
        stop.set()
        await serving


async def health(channel: grpc.aio.Channel, service: str) -> Any:
    request = health_pb2.HealthCheckRequest(service=service)
    return (await health_pb2_grpc.HealthStub(channel).Check(request)).status


async def test_health_is_told_per_service(settings: Settings, probe: Probe) -> None:
    async with (
        running(settings, [probe.register]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        for name in ("", "synthagent.api.v1.RubricJudge", "synthagent.api.v1.Rollout"):
            assert await health(channel, name) == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await health(channel, "synthagent.api.v1.TaskSynthesis")
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services(settings: Settings, probe: Probe) -> None:
    async with (
        running(settings, [probe.register]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([request])
        )
        response = await call.read()
        names = {service.name for service in response.list_services_response.service}
        assert set(server.services) < names
        assert "grpc.health.v1.Health" in names
        call.cancel()


async def test_metrics_count_by_service_method_and_code(settings: Settings, probe: Probe) -> None:
    async with (
        running(settings, [probe.register]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = judge_pb2_grpc.RubricJudgeStub(channel)
        await stub.Judge(judge_pb2.JudgeRequest(), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Judge(judge_pb2.JudgeRequest())
        url = f"http://{server.metrics_address}/metrics"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    labels = 'method="Judge",service="synthagent.api.v1.RubricJudge"'
    assert f'synthagent_grpc_requests_total{{code="OK",{labels}}} 1.0' in page
    assert f'synthagent_grpc_requests_total{{code="INVALID_ARGUMENT",{labels}}} 1.0' in page
    assert f"synthagent_grpc_request_seconds_count{{{labels}}} 2.0" in page
    assert f"synthagent_grpc_requests_in_flight{{{labels}}} 0.0" in page


async def test_a_drain_refuses_new_calls_and_lets_running_ones_end(
    settings: Settings, probe: Probe
) -> None:
    release = asyncio.Event()

    async def wait() -> None:
        await release.wait()

    probe.behaviour = wait
    async with (
        stopping(settings, probe) as (server, stop),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = judge_pb2_grpc.RubricJudgeStub(channel)
        call = asyncio.ensure_future(stub.Judge(judge_pb2.JudgeRequest(), timeout=10))
        await probe.started.wait()
        stop.set()
        await probe.drained.wait()
        await asyncio.sleep(0)  # drained; now calls are refused
        assert await health(channel, "synthagent.api.v1.RubricJudge") == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.Judge(judge_pb2.JudgeRequest(), timeout=5)
        assert isinstance(from_rpc_error(failure.value), errors.BackendUnavailable)
        assert probe.lifecycle == ["drain"]
        release.set()
        assert await call == judge_pb2.JudgeResponse()
    assert probe.lifecycle == ["drain", "close"]


async def test_what_does_not_end_in_time_is_ended_as_unavailable(
    settings: Settings, probe: Probe
) -> None:
    brief = settings.model_copy(update={"drain_seconds": 0.1})
    async with (
        stopping(brief, probe) as (server, stop),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub: Any = tool_pb2_grpc.ToolMockStub(channel)  # its stub asks for requests up front
        session = stub.Session()
        await session.write(tool_pb2.SessionRequest())
        assert await session.read() == tool_pb2.SessionResponse()
        probe.behaviour = lambda: asyncio.sleep(60)
        unary = asyncio.ensure_future(
            judge_pb2_grpc.RubricJudgeStub(channel).Judge(judge_pb2.JudgeRequest(), timeout=30)
        )
        await asyncio.sleep(0.1)
        stop.set()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await session.read()
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await unary
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert probe.lifecycle == ["drain", "close"]


async def test_a_watcher_of_health_does_not_hold_the_drain(
    settings: Settings, probe: Probe
) -> None:
    async with (
        stopping(settings, probe) as (server, stop),
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        stop.set()
        assert (await watch.read()).status == NOT_SERVING
        await asyncio.wait_for(probe.closed.wait(), settings.drain_seconds)
        watch.cancel()


async def test_a_port_that_is_taken_is_refused(settings: Settings, probe: Probe) -> None:
    async with running(settings, [probe.register]) as server:
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(PortTaken, match=f":{port}.*SYNTHAGENT_PORT"):
            async with running(settings.model_copy(update={"port": port}), []):
                pass
        assert server.metrics_address is not None
        metrics_port = int(server.metrics_address.rpartition(":")[2])
        with pytest.raises(PortTaken, match="SYNTHAGENT_METRICS_PORT"):
            async with running(settings.model_copy(update={"metrics_port": metrics_port}), []):
                pass


async def test_the_metrics_port_can_be_off(settings: Settings) -> None:
    async with running(load_settings(**{**settings.model_dump(), "metrics_port": None}), []) as it:
        assert it.metrics_address is None


async def test_a_message_over_the_limit_is_refused(settings: Settings, probe: Probe) -> None:
    small = settings.model_copy(update={"max_message_bytes": 2**16})
    async with (
        running(small, [probe.register]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await judge_pb2_grpc.RubricJudgeStub(channel).Judge(
                judge_pb2.JudgeRequest(task_id="x" * 2**17), timeout=5
            )
        assert isinstance(from_rpc_error(failure.value), errors.LimitExceeded)
