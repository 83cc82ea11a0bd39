"""Every call of ours, wrapped once: caller, deadline, account, counts, and one status at its end.

A `Calls` lives as long as its server and knows what runs. Streams are wrapped once, not per
message. After `end` new calls are refused with UNAVAILABLE, and so end those that still run when
their time is over: their callers go on elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog
from google.rpc import code_pb2
from opentelemetry.trace import get_current_span

from synthagent import accounts, deadlines, errors, tracing
from synthagent.failures import DETAILS
from synthagent.metrics import ServerMetrics
from synthagent.security.gate import Gate, Visit
from synthagent.statuses import to_status

_log = structlog.get_logger()

_SHUTTING_DOWN = "The server is shutting down; call again."
_CODES = {code.value[0]: code for code in grpc.StatusCode}

if TYPE_CHECKING:
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]  # generic in its stub only
else:
    _Interceptor = grpc.aio.ServerInterceptor


class Calls(_Interceptor):
    """Wraps every call of ours, and knows what runs."""

    def __init__(self, metrics: ServerMetrics, gate: Gate) -> None:
        self.metrics = metrics
        self.gate = gate
        self.running: set[asyncio.Task[Any]] = set()
        self.idle = asyncio.Event()
        self.idle.set()
        self.draining = False

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of a call, wrapped; what the gate does not guard is left as it is."""
        handler = await continuation(handler_call_details)
        path: str = handler_call_details.method
        if handler is None or not self.gate.guards(path):
            return handler
        return self.wrap(handler, path)

    def wrap(self, handler: Any, path: str) -> Any:
        """A handler (grpc.RpcMethodHandler) whose calls are ours, under the path /SERVICE/METHOD.

        Whatever has the methods of a servicer's context may call it: gRPC, or a stream within a
        stream.
        """
        behaviour, make_handler = _behaviour(handler)
        service, _, method = path.lstrip("/").partition("/")
        streamed = handler.request_streaming
        unary = not (streamed or handler.response_streaming)

        def call(request: Any, context: Any) -> tuple[Visit, _Call]:
            visit = self.gate.arrive(path, context, None if streamed else request, unary=unary)
            return visit, _Call(self, context, visit, service, method, unary=unary)

        async def run(request: Any, context: Any) -> Any:
            visit, entered = call(request, context)
            with tracing.served(service, method, context.invocation_metadata()):
                async with entered:
                    if streamed:
                        request, context = visit.messages(request, context)
                    return await behaviour(request, context)

        async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
            visit, entered = call(request, context)
            with tracing.served(service, method, context.invocation_metadata()):
                async with entered:
                    if streamed:
                        request, context = visit.messages(request, context)
                    async for response in behaviour(request, context):
                        yield response

        return make_handler(
            generate if inspect.isasyncgenfunction(behaviour) else run,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    async def end(self, seconds: float) -> None:
        """Lets no call begin any more, gives those that run `seconds`, and then ends them."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.idle.wait(), seconds)
        for task in self.running:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.idle.wait(), 2.0)


def _behaviour(handler: Any) -> tuple[Any, Any]:
    """The function behind a handler, and the factory of handlers of its kind."""
    if handler.request_streaming and handler.response_streaming:
        return handler.stream_stream, grpc.stream_stream_rpc_method_handler
    if handler.request_streaming:
        return handler.stream_unary, grpc.stream_unary_rpc_method_handler
    if handler.response_streaming:
        return handler.unary_stream, grpc.unary_stream_rpc_method_handler
    return handler.unary_unary, grpc.unary_unary_rpc_method_handler


class _Call:
    """One call, from its start to its status."""

    def __init__(
        self,
        calls: Calls,
        context: Any,
        visit: Visit,
        service: str,
        method: str,
        *,
        unary: bool,
    ) -> None:
        self._calls = calls
        self._context = context
        self._visit = visit
        self._labels = (service, method)
        self._unary = unary

    async def __aenter__(self) -> None:
        self._started = time.perf_counter()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC runs every handler in a task
        self._task = task
        self._calls.running.add(task)
        self._calls.idle.clear()
        self._calls.metrics.requests_in_flight.labels(*self._labels).inc()
        left = self._context.time_remaining()
        deadlines.begin(left)
        accounts.begin(self._context.invocation_metadata())
        if self._calls.draining:
            await self._abort(errors.BackendUnavailable(_SHUTTING_DOWN))
        try:
            self._visit.admit()
        except errors.SynthAgentError as error:
            await self._abort(error)
        if self._unary and left is None:
            await self._abort(
                errors.MissingDeadline(
                    "A unary call needs a deadline; set a timeout on the call.", field="deadline"
                )
            )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: object
    ) -> None:
        if error is None:
            self._end(grpc.StatusCode.OK)
        elif isinstance(error, asyncio.CancelledError) and self._calls.draining:
            self._task.uncancel()
            await self._abort(errors.BackendUnavailable(_SHUTTING_DOWN))
        elif isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            left = self._context.time_remaining()
            late = left is not None and left <= 0
            self._end(grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED)
        elif isinstance(error, Exception):
            await self._abort(error)

    async def _abort(self, error: Exception) -> NoReturn:
        status = to_status(error)
        if status.code == code_pb2.INTERNAL:
            _log.error("call failed", method="/".join(self._labels), exc_info=error)
        code = _CODES[status.code]
        self._end(code, error.reason if isinstance(error, errors.SynthAgentError) else "INTERNAL")
        await self._context.abort(code, status.message, ((DETAILS, status.SerializeToString()),))
        raise AssertionError("abort returned")  # pragma: no cover - it always raises

    def _end(self, code: grpc.StatusCode, reason: str = "") -> None:
        self._visit.end(code.name, reason)
        get_current_span().set_attribute("rpc.grpc.status_code", code.value[0])
        metrics = self._calls.metrics
        metrics.requests.labels(*self._labels, code.name).inc()
        metrics.requests_in_flight.labels(*self._labels).dec()
        metrics.request_seconds.labels(*self._labels).observe(time.perf_counter() - self._started)
        self._calls.running.discard(self._task)
        if not self._calls.running:
            self._calls.idle.set()
