"""RubricJudge over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from services.rubric_judge.auditor import UserAuditor
from services.rubric_judge.criterion import judge_criterion
from services.rubric_judge.verdict import Advisers, choose_preset, reach_verdict
from services.rubric_judge.votes import ModelJudge
from synthagent.api.v1 import judge_pb2, judge_pb2_grpc, trajectory_pb2
from synthagent.convert import (
    criterion_judgement_to_proto,
    events_from_proto,
    task_from_proto,
    verdict_to_proto,
)
from synthagent.convert.parts import chosen
from synthagent.errors import InvalidInput
from synthagent.llm import Models
from synthagent.metrics import ServerMetrics
from synthagent.server import Resources, Service
from synthagent.settings import Settings
from synthagent.store import Store, TaskCache, once
from synthagent.store import tasks as stored_tasks
from synthagent.worlds.episode import Event
from synthagent.worlds.spec import Task


class RubricJudgeServicer(judge_pb2_grpc.RubricJudgeServicer):
    """Translates between messages and verdicts."""

    def __init__(
        self,
        store: Store,
        tasks: TaskCache,
        metrics: ServerMetrics,
        models: Models,
        settings: Settings,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._metrics = metrics
        self._models = models
        self._max_events = settings.max_events
        self._votes = settings.judge_votes
        judge = models.role("judge")
        user = models.role("user") if settings.user_audit else None
        self._advisers = Advisers(
            judge=None if judge is None else ModelJudge(judge, self._votes, metrics),
            auditor=None if user is None else UserAuditor(user, metrics),
        )

    async def Judge(  # noqa: D102 - the contract names and documents it
        self, request: judge_pb2.JudgeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> judge_pb2.JudgeResponse:
        async def compute() -> judge_pb2.JudgeResponse:
            preset = choose_preset(request.reward_preset)
            events = self._events(request.events)
            task, image = await self._tasks.get_certified(request.task_id)
            verdict = await reach_verdict(
                task, image, events, preset, advisers=self._advisers, key=request.request_id
            )
            self._metrics.verdicts.labels(
                verdict.invalid_reason.value if verdict.invalid_reason else "valid"
            ).inc()
            return judge_pb2.JudgeResponse(verdict=verdict_to_proto(verdict))

        return await once(
            self._store,
            "RubricJudge.Judge",
            request.request_id,
            request,
            response_type=judge_pb2.JudgeResponse,
            compute=compute,
        )

    async def JudgeCriterion(  # noqa: D102 - the contract names and documents it
        self, request: judge_pb2.JudgeCriterionRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> judge_pb2.JudgeCriterionResponse:
        async def compute() -> judge_pb2.JudgeCriterionResponse:
            events = self._events(request.events)
            task = await self._subject(request)
            judge = ModelJudge(self._models.need("judge"), self._votes, self._metrics)
            judgement = await judge_criterion(
                judge, task, events, request.criterion_id, key=request.request_id
            )
            return criterion_judgement_to_proto(judgement)

        return await once(
            self._store,
            "RubricJudge.JudgeCriterion",
            request.request_id,
            request,
            response_type=judge_pb2.JudgeCriterionResponse,
            compute=compute,
        )

    async def _subject(self, request: judge_pb2.JudgeCriterionRequest) -> Task:
        """The task that is given or named; without a reward it needs no certificate."""
        if chosen(request, "subject", "request") == "task":
            return task_from_proto(request.task)
        return await self._store.read(lambda c: stored_tasks.get(c, request.task_id))

    def _events(self, messages: Sequence[trajectory_pb2.Event]) -> tuple[Event, ...]:
        if len(messages) > self._max_events:
            raise InvalidInput(
                f"The episode has {len(messages)} events; at most {self._max_events} are judged.",
                field="events",
            )
        return events_from_proto(messages)


async def register(server: grpc.aio.Server, resources: Resources) -> Service:
    """Adds RubricJudge to the server."""
    servicer = RubricJudgeServicer(
        resources.store, resources.tasks, resources.metrics, resources.models, resources.settings
    )
    judge_pb2_grpc.add_RubricJudgeServicer_to_server(servicer, server)
    return Service(names=("synthagent.api.v1.RubricJudge",))
