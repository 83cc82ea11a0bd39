"""UserSimulator over gRPC. The settings of the user's role choose between a model and embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from services.user_simulator.model_user import ModelUser
from services.user_simulator.reply import UserSimulator
from synthagent.api.v1 import user_pb2, user_pb2_grpc
from synthagent.convert import events_from_proto, user_reply_to_proto
from synthagent.errors import InvalidInput
from synthagent.metrics import ServerMetrics
from synthagent.server import Resources, Service
from synthagent.store import Store, TaskCache, once

if TYPE_CHECKING:  # the client library comes with it, which only a configured role needs
    from synthagent.llm import LanguageModel

_METHOD = "UserSimulator.Reply"


class UserSimulatorServicer(user_pb2_grpc.UserSimulatorServicer):
    """Translates between messages and the user: a model, or the embedded one where it is None."""

    def __init__(
        self,
        store: Store,
        tasks: TaskCache,
        metrics: ServerMetrics,
        max_events: int,
        model: LanguageModel | None,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._replies = metrics.user_replies
        self._max_events = max_events
        self._embedded = UserSimulator()
        self._played = None if model is None else ModelUser(model)

    async def Reply(  # noqa: D102 - the contract names and documents it
        self, request: user_pb2.ReplyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> user_pb2.ReplyResponse:
        async def compute() -> user_pb2.ReplyResponse:
            if len(request.events) > self._max_events:
                raise InvalidInput(
                    f"The episode has {len(request.events)} events; at most {self._max_events} "
                    "are read.",
                    field="events",
                )
            task, _ = await self._tasks.get_certified(request.task_id)
            events = events_from_proto(request.events)
            if self._played is None:
                reply = self._embedded.reply(task, events)
            else:
                reply = await self._played.reply(task, events, key=f"{request.request_id}/reply")
            self._replies.labels(reply.reply.value).inc()
            return user_pb2.ReplyResponse(reply=user_reply_to_proto(reply))

        return await once(
            self._store,
            _METHOD,
            request.request_id,
            request,
            response_type=user_pb2.ReplyResponse,
            compute=compute,
        )


async def register(server: grpc.aio.Server, resources: Resources) -> Service:
    """Adds UserSimulator to the server."""
    servicer = UserSimulatorServicer(
        resources.store,
        resources.tasks,
        resources.metrics,
        resources.settings.max_events,
        resources.models.role("user"),
    )
    user_pb2_grpc.add_UserSimulatorServicer_to_server(servicer, server)
    return Service(names=("synthagent.api.v1.UserSimulator",))
