"""Traces by OpenTelemetry, with the names of its conventions for generative AI.

Spans go where `synthagent.trace_export` sends them; without it they cost next to nothing and go
nowhere. The trace travels with every call of ours as W3C trace context. All spans of an episode are
of one trace, whose identifier follows from the trajectory's: an episode that another replica takes
over stays one trace, and a trajectory leads to its trace. Attributes hold names, counts and
outcomes; what was said, and the arguments and results of tools, stand in the trajectory alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

OPERATION = "gen_ai.operation.name"
AGENT = "gen_ai.agent.name"
CONVERSATION = "gen_ai.conversation.id"
MODEL = "gen_ai.request.model"
PROVIDER = "gen_ai.provider.name"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TOOL = "gen_ai.tool.name"
EVALUATION = "gen_ai.evaluation.result"
EVALUATION_NAME = "gen_ai.evaluation.name"
SCORE = "gen_ai.evaluation.score.value"
LABEL = "gen_ai.evaluation.score.label"
ERROR = "error.type"

Attributes = Mapping[str, str | int | float | bool]

_tracer = trace.get_tracer("synthagent")


@contextmanager
def span(
    name: str,
    attributes: Attributes,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    context: Context | None = None,
) -> Iterator[Span]:
    """A span for the block. An exception that leaves it becomes its error, without its text."""
    with _tracer.start_as_current_span(
        name,
        context,
        kind,
        attributes,
        record_exception=False,  # messages may quote what models or users said
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_attribute(ERROR, type(error).__qualname__)
            current.set_status(trace.StatusCode.ERROR)
            raise


def episode(trajectory_id: str) -> Context:
    """The context of all spans of an episode, on whatever replica they are made."""
    digest = hashlib.sha256(trajectory_id.encode()).digest()
    parent = SpanContext(
        trace_id=int.from_bytes(digest[:16], "big"),
        span_id=int.from_bytes(digest[16:24], "big"),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.DEFAULT),
    )
    return trace.set_span_in_context(NonRecordingSpan(parent))


def outgoing() -> tuple[tuple[str, str], ...]:
    """The metadata of a call that is made now: the trace that it belongs to, if any."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


@contextmanager
def served(
    service: str, method: str, metadata: Iterable[tuple[str, str | bytes]] | None
) -> Iterator[Span]:
    """A span for a call that is served, in the trace of its caller."""
    carrier = {key: value for key, value in metadata or () if isinstance(value, str)}
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    context = propagate.extract(carrier)
    with span(f"{service}/{method}", attributes, kind=SpanKind.SERVER, context=context) as current:
        yield current


def add_trace(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A structlog processor: the identifiers of the span in which a line is logged."""
    current = trace.get_current_span().get_span_context()
    if current.is_valid:
        event["trace_id"] = trace.format_trace_id(current.trace_id)
        event["span_id"] = trace.format_span_id(current.span_id)
    return event
