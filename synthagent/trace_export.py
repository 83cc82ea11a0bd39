"""Where spans go: an OTLP endpoint over HTTP, in the background, as long as a server lives."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from synthagent.settings import Settings


class TraceExport:
    """The exporter of a process. Does nothing where the settings name no endpoint."""

    def __init__(self, settings: Settings, service_name: str) -> None:
        self._provider: TracerProvider | None = None
        if settings.traces_endpoint is None:
            return
        share = TraceIdRatioBased(settings.traces_share)
        # The context of an episode carries no decision: every replica makes the same, by its trace.
        sampler = ParentBased(share, remote_parent_not_sampled=share)
        resource = Resource.create({"service.name": service_name})
        self._provider = TracerProvider(resource=resource, sampler=sampler)
        exporter = OTLPSpanExporter(endpoint=settings.traces_endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(self._provider)

    def close(self) -> None:
        """Sends what is left; blocks for as long as the exporter's timeout."""
        if self._provider is not None:
            self._provider.shutdown()
