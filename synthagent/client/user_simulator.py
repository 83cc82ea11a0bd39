"""The methods of UserSimulator."""

from __future__ import annotations

from collections.abc import Sequence

from synthagent.api.v1 import user_pb2, user_pb2_grpc
from synthagent.client.calling import Calling
from synthagent.convert import event_to_proto, user_reply_from_proto
from synthagent.worlds.episode import Event, UserReply


class UserSimulatorMethods(Calling):
    """Asks the user."""

    _user: user_pb2_grpc.UserSimulatorAsyncStub
    _user_timeout: float

    async def reply(self, request_id: str, task_id: str, events: Sequence[Event]) -> UserReply:
        """The user's answer to the agent's last message."""
        request = user_pb2.ReplyRequest(
            request_id=request_id,
            task_id=task_id,
            events=[event_to_proto(event) for event in events],
        )
        response = await self._unary(self._user.Reply, request, self._user_timeout)
        return user_reply_from_proto(response.reply, "reply")
