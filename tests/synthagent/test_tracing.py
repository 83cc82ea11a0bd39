"""Spans as a collector receives them, from services that run as a process of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from synthagent import tracing
from synthagent.api.v1 import rollout_pb2
from synthagent.client import SynthAgentClient
from synthagent.embedded import services
from synthagent.worlds.spec import Split, Task


@dataclass
class Collector:
    """An OTLP endpoint that keeps what it receives."""

    port: int = 0
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    def take(self, body: bytes) -> None:
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {
                each.value.string_value
                for each in of_resource.resource.attributes
                if each.key == "service.name"
            }
            for scope in of_resource.scope_spans:
                self.spans += scope.spans


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield collector
    server.shutdown()
    server.server_close()
    thread.join()


def attributes(span: Span) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        if kind:
            found[each.key] = getattr(each.value, kind)
    return found


async def play(address: str) -> str:
    """The trajectory of a gold episode."""
    async with SynthAgentClient(address) as client:
        stream = client.synthesize_tasks("one", 1, Split.TRAIN, seed=3, difficulty="mini")
        (task,) = [item async for item in stream if isinstance(item, Task)]
        spec = rollout_pb2.RunSpec(
            reference=rollout_pb2.REFERENCE_AGENT_GOLD,
            tasks=rollout_pb2.TaskSelection(task_ids=[task.task_id]),
        )
        await client.create_run("gold", spec)
        async for _ in client.watch_run("gold"):
            pass
        (summary,) = [item async for item in client.list_trajectories("gold")]
        return summary.trajectory_id


async def test_an_episode_is_one_trace_from_its_agent_to_the_services(tmp_path: Path) -> None:
    with collecting() as collector:
        environment = {
            "SYNTHAGENT_TRACES_ENDPOINT": f"http://127.0.0.1:{collector.port}/v1/traces",
            "SYNTHAGENT_DATABASE_URL": f"sqlite:///{tmp_path / 'synthagent.db'}",
        }
        with services(tmp_path, environment) as address:
            trajectory_id = await play(address)
    expected = trace.get_current_span(tracing.episode(trajectory_id)).get_span_context().trace_id
    spans = [s for s in collector.spans if int.from_bytes(s.trace_id, "big") == expected]
    named = {span.name: span for span in spans}
    whole = named["invoke_agent gold"]
    assert attributes(whole)["gen_ai.operation.name"] == "invoke_agent"
    assert attributes(whole)["gen_ai.conversation.id"] == trajectory_id
    assert attributes(named["chat gold"])["gen_ai.provider.name"] == "synthagent"
    (evaluation,) = whole.events
    assert evaluation.name == "gen_ai.evaluation.result"
    told = {each.key: each.value for each in evaluation.attributes}
    assert told["gen_ai.evaluation.score.value"].double_value == 1.0
    tools = [span for span in spans if span.name.startswith("execute_tool ")]
    assert tools
    assert all(span.parent_span_id == whole.span_id for span in tools)
    served = {s.name.rpartition("/")[2]: s for s in spans if s.kind == Span.SPAN_KIND_SERVER}
    assert set(served) == {"Session", "Reply", "Judge"}
    assert served["Session"].parent_span_id in {span.span_id for span in tools}
    assert served["Judge"].parent_span_id == named["judge"].span_id
    assert attributes(served["Judge"])["rpc.grpc.status_code"] == 0
    assert collector.services == {"synthagent"}


def test_all_replicas_give_an_episode_the_same_trace() -> None:
    first, again, other = (
        trace.get_current_span(tracing.episode(name)).get_span_context() for name in ("a", "a", "b")
    )
    assert first == again
    assert first.trace_id != other.trace_id
    assert first.is_valid


def test_a_log_line_in_a_span_names_it() -> None:
    context = tracing.episode("one")
    spoken = trace.get_current_span(context).get_span_context()
    with trace.use_span(trace.get_current_span(context)):
        line = tracing.add_trace(None, "info", {"event": "x"})
    assert line == {
        "event": "x",
        "trace_id": trace.format_trace_id(spoken.trace_id),
        "span_id": trace.format_span_id(spoken.span_id),
    }
    assert tracing.add_trace(None, "info", {"event": "x"}) == {"event": "x"}
