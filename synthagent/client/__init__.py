"""The typed client of all five services.

One `SynthAgentClient` holds one channel per address and is used by many tasks of one event loop.
Every unary call has a deadline: the client's, or what is left of the call being served where that
is nearer. Only UNAVAILABLE is retried, by gRPC itself; every mutation carries its idempotency key.
Statuses come back as the exceptions of `synthagent.errors`. The methods of each service stand in a
file of its name.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from synthagent.api.v1 import (
    judge_pb2_grpc,
    rollout_pb2_grpc,
    task_pb2_grpc,
    tool_pb2_grpc,
    user_pb2_grpc,
)
from synthagent.channel import KeepAlive, open_channel
from synthagent.client.rollout import RolloutMethods
from synthagent.client.rubric_judge import RubricJudgeMethods
from synthagent.client.task_synthesis import TaskSynthesisMethods
from synthagent.client.tool_mock import ToolMockMethods
from synthagent.client.user_simulator import UserSimulatorMethods
from synthagent.deadlines import ModelSeconds
from synthagent.security.channels import ChannelSecurity
from synthagent.session_streams import SessionStreams

if TYPE_CHECKING:
    from synthagent.settings import Settings


class SynthAgentClient(
    TaskSynthesisMethods,
    ToolMockMethods,
    UserSimulatorMethods,
    RubricJudgeMethods,
    RolloutMethods,
):
    """All five services. Made inside a running event loop; closed by `close` or `async with`."""

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        task_synthesis: str | None = None,
        tool_mock: str | None = None,
        user_simulator: str | None = None,
        rubric_judge: str | None = None,
        rollout: str | None = None,
        timeout_seconds: float = 30.0,
        model_seconds: ModelSeconds | None = None,
        wait_for_ready: bool = False,
        max_message_bytes: int = 16 * 2**20,
        security: ChannelSecurity | None = None,
        keep_alive: KeepAlive | None = None,
    ) -> None:
        """Connects lazily: to `address`, or for one service to its own (see `open_channel`).

        `security` says whom to trust and who calls (`client_security()` reads the environment);
        None means plain text and no token. Raises UnusableFile.

        With `wait_for_ready` a call waits for a server that is not there yet until its deadline;
        without, it fails as soon as the connection does. Calls that a model may have to answer get
        `model_seconds` more than `timeout_seconds` (None: none).
        """
        more = model_seconds or ModelSeconds()
        self._timeout = timeout_seconds
        self._tool_timeout = timeout_seconds + more.tool
        self._user_timeout = timeout_seconds + more.user
        self._judge_timeout = timeout_seconds + more.judge
        self._ready = wait_for_ready
        self._channels: dict[str, grpc.aio.Channel] = {}

        def channel(own: str | None) -> grpc.aio.Channel:
            where = own or address
            if where not in self._channels:
                self._channels[where] = open_channel(where, max_message_bytes, security, keep_alive)
            return self._channels[where]

        self._tasks = task_pb2_grpc.TaskSynthesisStub(channel(task_synthesis))
        self._tools = tool_pb2_grpc.ToolMockStub(channel(tool_mock))
        self._session_streams = SessionStreams(self._tools, max_message_bytes)
        self._user = user_pb2_grpc.UserSimulatorStub(channel(user_simulator))
        self._judge = judge_pb2_grpc.RubricJudgeStub(channel(rubric_judge))
        self._rollout = rollout_pb2_grpc.RolloutStub(channel(rollout))

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        own_address: str,
    ) -> Self:
        """The client of a server process: at the settings' addresses, or at its own."""
        return cls(
            own_address,
            task_synthesis=settings.task_synthesis_address,
            tool_mock=settings.tool_mock_address,
            user_simulator=settings.user_simulator_address,
            rubric_judge=settings.rubric_judge_address,
            rollout=settings.rollout_address,
            timeout_seconds=settings.call_timeout_seconds,
            model_seconds=ModelSeconds.of(settings),
            wait_for_ready=True,
            max_message_bytes=settings.max_message_bytes,
            security=ChannelSecurity.of(settings),
            keep_alive=KeepAlive.of(settings),
        )

    async def close(self) -> None:
        """Ends every call and closes the channels."""
        await self._session_streams.close()
        for channel in self._channels.values():
            await channel.close(grace=None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
