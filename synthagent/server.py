"""The one place that builds a gRPC server: what every service of ours does alike.

A `Server` binds its port, lets services register, and starts. `calls` wraps every call of theirs,
`statuses` says what an exception becomes. On `drain` health says NOT_SERVING, new calls are refused
with UNAVAILABLE, running ones get time to end, and what still runs is ended with UNAVAILABLE, so
that its caller goes on elsewhere.

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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIServer

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer as AsyncHealthServicer
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from synthagent.calls import Calls
from synthagent.channel import KeepAlive
from synthagent.client import SynthAgentClient
from synthagent.llm import Models
from synthagent.metrics import ServerMetrics
from synthagent.security.certificates import CertificateFiles, server_credentials
from synthagent.security.gate import Gate
from synthagent.security.watched import UnusableFile
from synthagent.settings import Settings
from synthagent.store import Store, TaskCache, check_current, upgrade
from synthagent.trace_export import TraceExport


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
    wrap: Callable[[Any, str], Any]
    """The handler of a call under a path, wrapped as the server wraps those of gRPC."""


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


def _connection_options(settings: Settings) -> list[tuple[str, int]]:
    """How long connections live, and how often clients may ask whether this end is there."""
    options = [
        *KeepAlive.of(settings).options(),
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.max_connection_age_grace_ms", int(settings.connection_grace_seconds * 1000)),
    ]
    if settings.connection_age_seconds is not None:
        options.append(("grpc.max_connection_age_ms", int(settings.connection_age_seconds * 1000)))
    return options


class Server:
    """A server of this process: bind, add services, start, and once drain."""

    def __init__(self, settings: Settings, metrics: ServerMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._gate = Gate.of(settings, metrics)
        self._calls = Calls(metrics, self._gate)
        self._health = AsyncHealthServicer()
        self._services: list[Service] = []
        self._metrics_server: tuple[WSGIServer, Thread] | None = None
        self._grpc = grpc.aio.server(
            interceptors=[self._calls],
            options=[
                ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                *_connection_options(settings),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        self._probed = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probed)

    def wrap(self, handler: Any, path: str) -> Any:
        """As `Calls.wrap`."""
        return self._calls.wrap(handler, path)

    def bind(self) -> str:
        """Opens the port and returns host:port as a client reaches it.

        Raises PortTaken, and UnusableFile where certificates are set and cannot be used.
        """
        settings = self._settings
        files = CertificateFiles.of(settings)
        self._gate.warn_if_open(settings.host, encrypted=files is not None)
        if files is None:
            return self._open(self._grpc.add_insecure_port, settings.port, "SYNTHAGENT_PORT")
        if files.certificate is None:
            raise UnusableFile(
                "SYNTHAGENT_TLS_CERTIFICATE_FILE is not set: with SYNTHAGENT_TLS_CA_FILE our "
                "clients speak TLS, and so must this server."
            )
        credentials = server_credentials(files, mutual=settings.tls_mutual)
        return self._open(
            lambda address: self._grpc.add_secure_port(address, credentials),
            settings.port,
            "SYNTHAGENT_PORT",
        )

    def bind_health(self) -> str | None:
        """Opens the port for probes and returns host:port; None where it is off. As `bind`."""
        port = self._settings.health_port
        if port is None:
            return None
        return self._open(self._probed.add_insecure_port, port, "SYNTHAGENT_HEALTH_PORT")

    def _open(self, add: Callable[[str], int], port: int, setting: str) -> str:
        host = self._settings.host
        try:
            bound = add(f"{host}:{port}")
        except RuntimeError as error:
            raise PortTaken(
                f"Cannot listen on {host}:{port}: the port is in use or not allowed. Stop what "
                f"uses it, or set {setting} to another (0 means any free one)."
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
        await self._probed.start()
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return names

    async def drain(self, seconds: float) -> None:
        """Ends the server: running calls get `seconds`, then UNAVAILABLE. See the module's text."""
        await self._health.enter_graceful_shutdown()
        for service in self._services:
            await service.drain()
        await self._calls.end(seconds)
        await self._grpc.stop(grace=0.2)  # what is left are watchers of health
        await self._probed.stop(grace=0.2)
        self._gate.close()
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
    health_address: str | None
    """Where probes ask without TLS; None where there is no such port."""
    services: tuple[str, ...]
    resources: Resources


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    registers: Sequence[Register],
    *,
    stop_now: asyncio.Event | None = None,
    name: str = "synthagent",
) -> AsyncIterator[Running]:
    """Serves while the block runs, then drains; `stop_now`, once set, cuts the draining short.

    `name` is what traces call this process.
    Brings the database's schema up to date first. Raises PortTaken, UnusableFile (of
    certificates, callers or the audit), or what `store.upgrade` raises.
    """
    metrics = ServerMetrics()
    traces = TraceExport(settings, name)
    server = Server(settings, metrics)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, traces.close)
        address = server.bind()
        health_address = server.bind_health()
        check = upgrade if settings.migrate else check_current
        await asyncio.to_thread(check, settings.database_url)
        store = Store(
            settings.database_url,
            readers=settings.database_readers,
            busy_seconds=settings.database_busy_seconds,
            statement_seconds=settings.database_statement_seconds,
            metrics=metrics,
        )
        stack.push_async_callback(store.close)
        client = SynthAgentClient.from_settings(settings, own_address=address)
        stack.push_async_callback(client.close)
        models = Models(settings, store, metrics)
        stack.push_async_callback(models.close)
        tasks = TaskCache(store, settings.task_cache_size)
        resources = Resources(settings, store, metrics, tasks, client, models, server.wrap)
        metrics_address = server.serve_metrics()
        stack.push_async_callback(_drain, server, settings.drain_seconds, stop_now)
        services = await server.start(registers, resources)
        yield Running(address, metrics_address, health_address, services, resources)


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
