"""A real server whose RubricJudge, ToolMock and Rollout do what a test tells them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from synthagent.api.v1 import (
    judge_pb2,
    judge_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
    tool_pb2,
    tool_pb2_grpc,
)
from synthagent.server import Resources, Service
from synthagent.settings import Settings, load_settings

Behaviour = Callable[[], Awaitable[None]]


@dataclass
class Probe:
    """What the services do before they answer, and what they met."""

    behaviour: Behaviour | None = None
    started: asyncio.Event = field(default_factory=asyncio.Event)
    lifecycle: list[str] = field(default_factory=list)
    drained: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    seconds_left: float | None = None
    """What the last call to WatchRun had left of its deadline."""

    async def act(self) -> None:
        self.started.set()
        if self.behaviour is not None:
            await self.behaviour()

    async def register(self, server: grpc.aio.Server, _resources: Resources) -> Service:
        rollout = ProbeRollout(self)  # type: ignore[abstract]  # the rest is UNIMPLEMENTED
        judge = ProbeJudge(self)  # type: ignore[abstract]  # the same
        tools = ProbeTools(self)  # type: ignore[abstract]  # the same
        judge_pb2_grpc.add_RubricJudgeServicer_to_server(judge, server)
        tool_pb2_grpc.add_ToolMockServicer_to_server(tools, server)
        rollout_pb2_grpc.add_RolloutServicer_to_server(rollout, server)
        names = ("RubricJudge", "ToolMock", "Rollout")
        return ProbeService(tuple(f"synthagent.api.v1.{name}" for name in names), self)


@dataclass
class ProbeService(Service):
    probe: Probe

    async def drain(self) -> None:
        self.probe.lifecycle.append("drain")
        self.probe.drained.set()

    async def close(self) -> None:
        self.probe.lifecycle.append("close")
        self.probe.closed.set()


class ProbeJudge(judge_pb2_grpc.RubricJudgeServicer):
    """A unary method."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    async def Judge(self, request: judge_pb2.JudgeRequest, context: Any) -> judge_pb2.JudgeResponse:
        await self._probe.act()
        return judge_pb2.JudgeResponse()


class ProbeTools(tool_pb2_grpc.ToolMockServicer):
    """A bidirectional stream in the reading and writing style."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    async def Session(  # type: ignore[override]  # its stub knows generators only
        self, request_iterator: Any, context: Any
    ) -> None:
        while isinstance(await context.read(), tool_pb2.SessionRequest):
            await self._probe.act()
            await context.write(tool_pb2.SessionResponse())


class ProbeRollout(rollout_pb2_grpc.RolloutServicer):
    """A stream of responses in the generator style."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    async def WatchRun(
        self, request: Any, context: Any
    ) -> AsyncIterator[rollout_pb2.WatchRunResponse]:
        self._probe.seconds_left = context.time_remaining()
        yield rollout_pb2.WatchRunResponse(run=rollout_pb2.Run(run_id=request.run_id))
        await self._probe.act()
        yield rollout_pb2.WatchRunResponse(run=rollout_pb2.Run(run_id="last"))


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a server on free ports with a fresh database."""
    return load_settings(
        database_url=f"sqlite:///{tmp_path / 'synthagent.db'}",
        port=0,
        metrics_port=0,
        drain_seconds=5.0,
        call_timeout_seconds=5.0,
    )


@pytest.fixture
def unused_address() -> str:
    """host:port at which nothing listens."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{opened.getsockname()[1]}"
