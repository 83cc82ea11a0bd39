"""The one place that builds a gRPC server: what every service of ours does alike.

A `Server` binds its port, lets services register, and starts. Around every call of ours it checks
and hands on the deadline, counts and times, and turns an exception into a status by the one table
below. Streams are wrapped once, not per message. On `drain` health says NOT_SERVING, new calls are
refused with UNAVAILABLE, running ones get time to end, and what still runs is ended with
UNAVAILABLE, so that its caller goes on elsewhere.

A service lives in `services/NAME/servicer.py`, which has one function:

    async def register(server: grpc.aio.Server, resources: Resources) -> Service:
        servicer = ToolMockServicer(resources.tasks, resources.metrics, resources.settings)
        tool_pb2_grpc.add_ToolMockServicer_to_server(servicer, server)
        return ToolMockService(names=("synthagent.api.v1.ToolMock",), ...)

Its methods raise errors of `synthagent.errors` and never touch `context` for statuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any, NoReturn
from wsgiref.simple_server import WSGIServer

import grpc
import structlog
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer as AsyncHealthServicer
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from synthagent import accounts, deadlines, errors
from synthagent.client import SynthAgentClient
from synthagent.failures import DETAILS
from synthagent.llm import Models
from synthagent.metrics import ServerMetrics
from synthagent.settings import Settings
from synthagent.store import Store, TaskCache, check_current, upgrade

_log = structlog.get_logger()

STATUS: dict[type[errors.SynthAgentError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MissingDeadline: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.RequestIdReused: grpc.StatusCode.ALREADY_EXISTS,
    errors.PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Uncertified: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StepOutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StateDiverged: grpc.StatusCode.ABORTED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Corrupt: grpc.StatusCode.DATA_LOSS,
    errors.ModelFault: grpc.StatusCode.ABORTED,
    errors.ModelRefused: grpc.StatusCode.ABORTED,
    errors.ModelTruncated: grpc.StatusCode.ABORTED,
    errors.ModelMalformed: grpc.StatusCode.ABORTED,
    errors.BackendUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.ModelUnavailable: grpc.StatusCode.UNAVAILABLE,
}
"""The one table from exception to status. Anything else becomes INTERNAL."""


_INFRASTRUCTURE = ("/grpc.health.", "/grpc.reflection.")
_SHUTTING_DOWN = "The server is shutting down; call again."


class PortTaken(RuntimeError):
    """The port to listen on is in use or may not be opened."""


@dataclass
class Resources:
    """What a process shares among its services, passed to each `register`."""

    settings: Settings
    store: Store
    metrics: ServerMetrics
    tasks: TaskCache
    client: SynthAgentClient
    """Reaches every service at the address in the settings; by default this server itself."""
    models: Models
    """The language models of the configured roles."""


@dataclass
class Service:
    """A registered service. Subclasses override what they need to stop."""

    names: tuple[str, ...]
    """Full names, as `synthagent.api.v1.ToolMock`, for health and reflection."""

    async def drain(self) -> None:
        """Stops starting work of its own; called first, while calls still run."""

    async def close(self) -> None:
        """Ends background work and releases what it holds; called when no call runs any more."""


Register = Callable[[grpc.aio.Server, Resources], Awaitable[Service]]


def to_status(error: BaseException) -> status_pb2.Status:
    """The google.rpc.Status of an exception, with its details; INTERNAL hides them."""
    if not isinstance(error, errors.SynthAgentError) or type(error) is errors.SynthAgentError:
        return status_pb2.Status(
            code=code_pb2.INTERNAL,
            message="An internal error occurred; the server's log has its traceback.",
        )
    code = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    details: list[Any] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=errors.DOMAIN, metadata=error.metadata
        )
    ]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromTimedelta(error.retry_after)
        details.append(info)
    status = status_pb2.Status(code=code.value[0], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


if TYPE_CHECKING:
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]  # generic in its stub only
else:
    _Interceptor = grpc.aio.ServerInterceptor


class _Calls(_Interceptor):
    """Wraps every call of ours, and knows what runs."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self.metrics = metrics
        self.running: set[asyncio.Task[Any]] = set()
        self.idle = asyncio.Event()
        self.idle.set()
        self.draining = False

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of a call, wrapped; health and reflection are left as they are."""
        handler = await continuation(handler_call_details)
        path: str = handler_call_details.method
        if handler is None or path.startswith(_INFRASTRUCTURE):
            return handler
        behaviour, make_handler = _behaviour(handler)
        service, _, method = path.lstrip("/").partition("/")
        unary = not (handler.request_streaming or handler.response_streaming)

        async def run(request: Any, context: Any) -> Any:
            async with _Call(self, context, service, method, unary=unary):
                return await behaviour(request, context)

        async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
            async with _Call(self, context, service, method, unary=unary):
                async for response in behaviour(request, context):
                    yield response

        return make_handler(
            generate if inspect.isasyncgenfunction(behaviour) else run,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


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
        self, calls: _Calls, context: Any, service: str, method: str, *, unary: bool
    ) -> None:
        self._calls = calls
        self._context = context
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
        self._end(code)
        await self._context.abort(code, status.message, ((DETAILS, status.SerializeToString()),))
        raise AssertionError("abort returned")  # pragma: no cover - it always raises

    def _end(self, code: grpc.StatusCode) -> None:
        metrics = self._calls.metrics
        metrics.requests.labels(*self._labels, code.name).inc()
        metrics.requests_in_flight.labels(*self._labels).dec()
        metrics.request_seconds.labels(*self._labels).observe(time.perf_counter() - self._started)
        self._calls.running.discard(self._task)
        if not self._calls.running:
            self._calls.idle.set()


_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Server:
    """A server of this process: bind, add services, start, and once drain."""

    def __init__(self, settings: Settings, metrics: ServerMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._calls = _Calls(metrics)
        self._health = AsyncHealthServicer()
        self._services: list[Service] = []
        self._metrics_server: tuple[WSGIServer, Thread] | None = None
        self._grpc = grpc.aio.server(
            interceptors=[self._calls],
            options=[
                ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)

    def bind(self) -> str:
        """Opens the port and returns host:port as a client reaches it. Raises PortTaken."""
        host, port = self._settings.host, self._settings.port
        try:
            bound = self._grpc.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise PortTaken(
                f"Cannot listen on {host}:{port}: the port is in use or not allowed. Stop what "
                "uses it, or set SYNTHAGENT_PORT to another (0 means any free one)."
            ) from error
        reachable = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - a name
        return f"{reachable}:{bound}"

    def serve_metrics(self) -> str | None:
        """Opens the metrics port and returns host:port; None where it is off. Raises PortTaken."""
        port = self._settings.metrics_port
        if port is None:
            return None
        host = self._settings.host
        try:
            self._metrics_server = start_http_server(port, host.strip("[]"), self._metrics.registry)
        except OSError as error:
            raise PortTaken(
                f"Cannot serve metrics on {host}:{port}: {error.strerror}. Set "
                "SYNTHAGENT_METRICS_PORT to another port, 0 (any free one) or none."
            ) from error
        return f"{host}:{self._metrics_server[0].server_port}"

    async def start(self, registers: Sequence[Register], resources: Resources) -> tuple[str, ...]:
        """Registers the services, serves, and returns their names."""
        for register in registers:
            self._services.append(await register(self._grpc, resources))
        names = tuple(name for service in self._services for name in service.names)
        reflection.enable_server_reflection(
            [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._grpc
        )
        await self._grpc.start()
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return names

    async def drain(self, seconds: float) -> None:
        """Ends the server: running calls get `seconds`, then UNAVAILABLE. See the module's text."""
        await self._health.enter_graceful_shutdown()
        for service in self._services:
            await service.drain()
        self._calls.draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._calls.idle.wait(), seconds)
        for task in self._calls.running:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._calls.idle.wait(), 2.0)
        await self._grpc.stop(grace=0.2)  # what is left are watchers of health
        for service in reversed(self._services):
            await service.close()
        if self._metrics_server is not None:
            http, thread = self._metrics_server
            await asyncio.to_thread(http.shutdown)
            http.server_close()
            thread.join()


@dataclass(frozen=True)
class Running:
    """A server that serves."""

    address: str
    metrics_address: str | None
    services: tuple[str, ...]
    resources: Resources


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    registers: Sequence[Register],
    *,
    stop_now: asyncio.Event | None = None,
) -> AsyncIterator[Running]:
    """Serves while the block runs, then drains; `stop_now`, once set, cuts the draining short.

    Brings the database's schema up to date first. Raises PortTaken, or what `store.upgrade` raises.
    """
    metrics = ServerMetrics()
    server = Server(settings, metrics)
    async with contextlib.AsyncExitStack() as stack:
        address = server.bind()
        check = upgrade if settings.migrate else check_current
        await asyncio.to_thread(check, settings.database_url)
        store = Store(
            settings.database_url,
            readers=settings.database_readers,
            busy_seconds=settings.database_busy_seconds,
            metrics=metrics,
        )
        stack.push_async_callback(store.close)
        client = SynthAgentClient.from_settings(settings, own_address=address)
        stack.push_async_callback(client.close)
        models = Models(settings, store, metrics)
        stack.push_async_callback(models.close)
        tasks = TaskCache(store, settings.task_cache_size)
        resources = Resources(settings, store, metrics, tasks, client, models)
        metrics_address = server.serve_metrics()
        stack.push_async_callback(_drain, server, settings.drain_seconds, stop_now)
        services = await server.start(registers, resources)
        yield Running(address, metrics_address, services, resources)


async def _drain(server: Server, seconds: float, stop_now: asyncio.Event | None) -> None:
    draining = asyncio.ensure_future(server.drain(seconds))
    if stop_now is not None:
        cut = asyncio.ensure_future(stop_now.wait())
        await asyncio.wait([draining, cut], return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
        if not draining.done():
            draining.cancel()
            await asyncio.wait([draining])
            return
    await draining
