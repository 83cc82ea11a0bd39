"""RubricJudge over gRPC."""

from __future__ import annotations

from typing import Any

import grpc

from services.rubric_judge.verdict import choose_preset, reach_verdict
from synthagent.api.v1 import judge_pb2, judge_pb2_grpc
from synthagent.convert import events_from_proto, verdict_to_proto
from synthagent.errors import InvalidInput
from synthagent.metrics import ServerMetrics
from synthagent.server import Resources, Service
from synthagent.store import Store, TaskCache, once

_METHOD = "RubricJudge.Judge"


class RubricJudgeServicer(judge_pb2_grpc.RubricJudgeServicer):
    """Translates between messages and verdicts."""

    def __init__(
        self, store: Store, tasks: TaskCache, metrics: ServerMetrics, max_events: int
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._verdicts = metrics.verdicts
        self._max_events = max_events

    async def Judge(  # noqa: D102 - the contract names and documents it
        self, request: judge_pb2.JudgeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> judge_pb2.JudgeResponse:
        async def compute() -> judge_pb2.JudgeResponse:
            preset = choose_preset(request.reward_preset)
            if len(request.events) > self._max_events:
                raise InvalidInput(
                    f"The episode has {len(request.events)} events; at most {self._max_events} "
                    "are judged.",
                    field="events",
                )
            task, image = await self._tasks.get_certified(request.task_id)
            events = events_from_proto(request.events)
            verdict = await reach_verdict(task, image, events, preset)
            self._verdicts.labels(
                verdict.invalid_reason.value if verdict.invalid_reason else "valid"
            ).inc()
            return judge_pb2.JudgeResponse(verdict=verdict_to_proto(verdict))

        return await once(
            self._store,
            _METHOD,
            request.request_id,
            request,
            response_type=judge_pb2.JudgeResponse,
            compute=compute,
        )


async def register(server: grpc.aio.Server, resources: Resources) -> Service:
    """Adds RubricJudge to the server."""
    servicer = RubricJudgeServicer(
        resources.store, resources.tasks, resources.metrics, resources.settings.max_events
    )
    judge_pb2_grpc.add_RubricJudgeServicer_to_server(servicer, server)
    return Service(names=("synthagent.api.v1.RubricJudge",))
