"""UserSimulator over gRPC."""

from __future__ import annotations

from typing import Any

import grpc

from services.user_simulator.reply import UserSimulator
from synthagent.api.v1 import user_pb2, user_pb2_grpc
from synthagent.convert import events_from_proto, user_reply_to_proto
from synthagent.errors import InvalidInput
from synthagent.metrics import ServerMetrics
from synthagent.server import Resources, Service
from synthagent.store import Store, TaskCache, once

_METHOD = "UserSimulator.Reply"


class UserSimulatorServicer(user_pb2_grpc.UserSimulatorServicer):
    """Translates between messages and the embedded user."""

    def __init__(
        self, store: Store, tasks: TaskCache, metrics: ServerMetrics, max_events: int
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._replies = metrics.user_replies
        self._max_events = max_events
        self._simulator = UserSimulator()

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
            reply = self._simulator.reply(task, events_from_proto(request.events))
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
        resources.store, resources.tasks, resources.metrics, resources.settings.max_events
    )
    user_pb2_grpc.add_UserSimulatorServicer_to_server(servicer, server)
    return Service(names=("synthagent.api.v1.UserSimulator",))
