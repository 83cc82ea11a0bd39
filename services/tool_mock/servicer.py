"""ToolMock over gRPC: streams of calls into sessions.

The loop of `Session` is the hot path of every rollout, so it builds the response straight from the
engine's result and touches no other object per call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing in the stubs
from prometheus_client import Counter

from services.tool_mock.ledger import Ledger
from services.tool_mock.ledger_session import LedgerSession
from services.tool_mock.multiplexing import Stream
from services.tool_mock.session import Sessions
from synthagent.api.v1 import tool_pb2, tool_pb2_grpc, trajectory_pb2
from synthagent.errors import InvalidInput
from synthagent.metrics import ServerMetrics
from synthagent.security.limits import SESSION
from synthagent.server import Resources, Service
from synthagent.store import Store, TaskCache, ledger
from synthagent.store.ledger import LedgerEntry, Source
from synthagent.worlds.session import Answer

_DEFAULT_PAGE, _MAX_PAGE = 100, 1000
_SOURCES = {
    Source.SEMANTIC: tool_pb2.LEDGER_SOURCE_SEMANTIC,
    Source.GENERATED: tool_pb2.LEDGER_SOURCE_GENERATED,
}

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

    def __init__(
        self,
        tasks: TaskCache,
        store: Store,
        metrics: ServerMetrics,
        sessions: Sessions,
        wrap: Callable[[Any, str], Any],
    ) -> None:
        """`wrap` gives the handler of a call under a path, wrapped as gRPC's own calls are."""
        self._tasks = tasks
        self._store = store
        self._open = metrics.sessions_open
        self._sessions = sessions
        self._calls = _CallCounter(metrics.tool_calls)
        session = grpc.stream_stream_rpc_method_handler(self.Session)
        self._serve_session = wrap(session, SESSION).stream_stream

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
        task, image = await self._tasks.get_certified(opening.task_id)
        expected = opening.expected_state_hash
        async with self._sessions.open(task, image, history, expected) as session:
            with self._open.track_inprogress():
                opened = tool_pb2.SessionOpened(
                    state_hash=session.state_hash, replayed=session.sequence
                )
                await context.write(tool_pb2.SessionResponse(opened=opened))
                waits = isinstance(session, LedgerSession)
                await self._answer_all(session.answer, context, waits=waits)

    async def _answer_all(self, answer: Any, context: _Context, *, waits: bool) -> None:
        """Answers until the stream ends; `waits` says whether `answer` is a coroutine function."""
        read, write, count = context.read, context.write, self._calls.count
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
            if waits:
                result = await result
            code = result.error_code
            count(code)
            # A new message for each call: one that is filled again keeps all that was ever in it.
            response = tool_pb2.SessionResponse()
            filled = response.result
            filled.sequence = sequence
            result_message = filled.result
            result_message.ok = result.ok
            result_message.result_json = result.result
            result_message.error_code = code
            result_message.state_hash = result.state_hash
            await write(response)

    async def MultiplexSessions(  # type: ignore[override]  # noqa: D102 - as Session
        self,
        request_iterator: AsyncIterator[tool_pb2.MultiplexSessionsRequest],
        context: _Context,
    ) -> None:
        await Stream(context, self._serve_session).run()

    async def CallTool(  # noqa: D102 - the contract names and documents it
        self, request: tool_pb2.CallToolRequest, context: _Context
    ) -> tool_pb2.CallToolResponse:
        history = _history(request.history)
        task, image = await self._tasks.get_certified(request.task_id)
        async with self._sessions.open(task, image, history) as session:
            answered = session.answer(session.sequence, request.tool, request.arguments_json)
            result = answered if isinstance(answered, Answer) else await answered
        self._calls.count(result.error_code)
        return tool_pb2.CallToolResponse(result=_to_message(result))

    async def ListLedgerEntries(  # noqa: D102 - the contract names and documents it
        self, request: tool_pb2.ListLedgerEntriesRequest, context: _Context
    ) -> tool_pb2.ListLedgerEntriesResponse:
        if request.page_size > _MAX_PAGE:
            raise InvalidInput(
                f"page_size is {request.page_size}; give at most {_MAX_PAGE}.", field="page_size"
            )
        page = await self._store.read(
            lambda connection: ledger.list_page(
                connection,
                request.task_id,
                page_size=request.page_size or _DEFAULT_PAGE,
                page_token=request.page_token,
            )
        )
        return tool_pb2.ListLedgerEntriesResponse(
            entries=map(_to_entry, page.entries), next_page_token=page.next_page_token
        )


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


def _to_entry(entry: LedgerEntry) -> tool_pb2.LedgerEntry:
    return tool_pb2.LedgerEntry(
        tool=entry.tool,
        arguments_json=entry.arguments,
        state_version=entry.state_version,
        next_state_version=entry.next_state_version,
        result=trajectory_pb2.ToolResult(
            ok=entry.ok, result_json=entry.result, error_code=entry.error_code
        ),
        source=_SOURCES[entry.source],
        match_reason=entry.match_reason,
        matched_arguments_json=entry.matched_arguments,
    )


def _history(calls: Any) -> list[tuple[str, str]]:
    return [(call.tool, call.arguments_json) for call in calls]


@dataclass
class ToolMockService(Service):
    """The service with its ledger."""

    ledger: Ledger

    async def close(self) -> None:
        """Gives up the answers that nobody can get any more."""
        await self.ledger.close()


async def register(server: grpc.aio.Server, resources: Resources) -> Service:
    """Adds ToolMock to the server."""
    metrics = resources.metrics
    answers = Ledger(resources.store, resources.models, metrics.ledger_calls)
    sessions = Sessions(resources.settings.max_sessions, answers)
    servicer = ToolMockServicer(resources.tasks, resources.store, metrics, sessions, resources.wrap)
    tool_pb2_grpc.add_ToolMockServicer_to_server(servicer, server)
    return ToolMockService(("synthagent.api.v1.ToolMock",), answers)
