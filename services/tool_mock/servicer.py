"""ToolMock over gRPC: streams of calls into sessions.

The loop of `Session` is the hot path of every rollout, so it builds the response straight from the
engine's result and touches no other object per call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing in the stubs
from prometheus_client import Counter

from services.tool_mock.session import Sessions
from synthagent.api.v1 import tool_pb2, tool_pb2_grpc, trajectory_pb2
from synthagent.errors import InvalidInput
from synthagent.metrics import ServerMetrics
from synthagent.server import Resources, Service
from synthagent.store import TaskCache
from synthagent.worlds.engine import Answer

_ENGINE_CODES = (
    "malformed_arguments",
    "unknown_tool",
    "invalid_arguments",
    "arguments_too_large",
    "result_too_large",
    "statement_limit",
    "database_full",
    "constraint_violated",
    "execution_failed",
    "not_available",
)
_Context = grpc.aio.ServicerContext[Any, Any]


class ToolMockServicer(tool_pb2_grpc.ToolMockServicer):
    """Translates between messages and sessions."""

    def __init__(self, tasks: TaskCache, metrics: ServerMetrics, max_sessions: int) -> None:
        self._tasks = tasks
        self._open = metrics.sessions_open
        self._sessions = Sessions(max_sessions)
        self._calls = _CallCounter(metrics.tool_calls)

    async def Session(  # type: ignore[override]  # noqa: D102 - the contract names and documents it; grpc.aio takes a coroutine too
        self, request_iterator: AsyncIterator[tool_pb2.SessionRequest], context: _Context
    ) -> None:
        first = await context.read()
        if first is EOF:
            return
        if first.WhichOneof("message") != "open":
            raise InvalidInput("The first message must open the session.", field="open")
        opening = first.open
        history = _history(opening.history)
        _, image = await self._tasks.get_certified(opening.task_id)
        async with self._sessions.open(image, history, opening.expected_state_hash) as session:
            with self._open.track_inprogress():
                opened = tool_pb2.SessionOpened(
                    state_hash=session.state_hash, replayed=session.sequence
                )
                await context.write(tool_pb2.SessionResponse(opened=opened))
                await self._answer_all(session.answer, context)

    async def _answer_all(self, answer: Any, context: _Context) -> None:
        read, write, count = context.read, context.write, self._calls.count
        # One response serves the whole stream: `write` serializes it before it returns, and every
        # field is set anew for each call.
        response = tool_pb2.SessionResponse()
        filled = response.result
        result_message = filled.result
        while True:
            request = await read()
            if request is EOF:
                return
            if not request.HasField("call"):
                raise InvalidInput(
                    "Every message after the first must be a call; open another session on a "
                    "stream of its own.",
                    field="call",
                )
            call = request.call
            sequence = call.sequence
            result = answer(sequence, call.tool, call.arguments_json)
            code = result.error_code
            count(code)
            filled.sequence = sequence
            result_message.ok = result.ok
            result_message.result_json = result.result
            result_message.error_code = code
            result_message.state_hash = result.state_hash
            await write(response)

    async def CallTool(  # noqa: D102 - the contract names and documents it
        self, request: tool_pb2.CallToolRequest, context: _Context
    ) -> tool_pb2.CallToolResponse:
        history = _history(request.history)
        _, image = await self._tasks.get_certified(request.task_id)
        async with self._sessions.open(image, history) as session:
            result = session.answer(session.sequence, request.tool, request.arguments_json)
        self._calls.count(result.error_code)
        return tool_pb2.CallToolResponse(result=_to_message(result))


class _CallCounter:
    """Counts calls by error code; those of worlds, which have no end, are one label."""

    def __init__(self, calls: Counter) -> None:
        self._labels = {code: calls.labels(code) for code in ("", *_ENGINE_CODES)}
        self._business = calls.labels("business_error")

    def count(self, error_code: str) -> None:
        self._labels.get(error_code, self._business).inc()


def _to_message(result: Answer) -> trajectory_pb2.ToolResult:
    return trajectory_pb2.ToolResult(
        ok=result.ok,
        result_json=result.result,
        error_code=result.error_code,
        state_hash=result.state_hash,
    )


def _history(calls: Any) -> list[tuple[str, str]]:
    return [(call.tool, call.arguments_json) for call in calls]


async def register(server: grpc.aio.Server, resources: Resources) -> Service:
    """Adds ToolMock to the server."""
    servicer = ToolMockServicer(resources.tasks, resources.metrics, resources.settings.max_sessions)
    tool_pb2_grpc.add_ToolMockServicer_to_server(servicer, server)
    return Service(names=("synthagent.api.v1.ToolMock",))
