"""The client's end of a tool session, which survives the loss of its server.

A session keeps the calls it made. When its stream breaks with UNAVAILABLE it opens on another,
sends the calls again with the state hash they led to, and goes on; the server proves by the hash
that the state is the same. A model behind a simulated tool that is out of reach is the caller's to
wait for: the server has done so already. One session is used by one task at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from synthagent import accounts, deadlines, tracing
from synthagent.api.v1 import tool_pb2
from synthagent.convert import tool_result_from_proto
from synthagent.errors import (
    BackendUnavailable,
    ModelUnavailable,
    StateDiverged,
    SynthAgentError,
)
from synthagent.session_streams import Lane, SessionStreams
from synthagent.worlds.episode import ToolResult

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


class RecordedCall(NamedTuple):
    """A call that was made: tool, and arguments as the agent wrote them."""

    tool: str
    arguments: str


def recorded_call_to_proto(call: RecordedCall) -> tool_pb2.RecordedCall:
    """The message of a recorded call."""
    return tool_pb2.RecordedCall(tool=call.tool, arguments_json=call.arguments)


class ToolSession:
    """A session of one episode. `call` answers calls in order; `close` ends it."""

    def __init__(
        self,
        streams: SessionStreams,
        task_id: str,
        history: Sequence[RecordedCall] = (),
        expected_state_hash: str = "",
        *,
        call_timeout: float = 30.0,
    ) -> None:
        """Nothing happens before `open`. `call_timeout` is in seconds, reopening included."""
        self._streams = streams
        self._task_id = task_id
        self._history = list(history)
        self._call_timeout = call_timeout
        self._lane: Lane | None = None  # while the session is open
        self.state_hash = expected_state_hash
        """State hash after the last call; empty before the session was first opened."""

    @property
    def calls(self) -> tuple[RecordedCall, ...]:
        """Calls so far, those of the given history included."""
        return tuple(self._history)

    async def open(self) -> None:
        """Opens the session. Raises NotFound, Uncertified, StateDiverged, LimitExceeded."""
        await self._persistently(None)

    async def call(self, tool: str, arguments: str) -> ToolResult:
        """The result of one call, which may be a tool error. Raises what `open` raises."""
        response = await self._persistently(
            tool_pb2.Call(sequence=len(self._history), tool=tool, arguments_json=arguments)
        )
        result = tool_result_from_proto(response.result.result, "result")
        self._history.append(RecordedCall(tool, arguments))
        self.state_hash = result.state_hash
        return result

    async def close(self) -> None:
        """Ends the session; the server then forgets it. A second close does nothing."""
        if self._lane is not None:
            self._lane.close()
            self._lane = None

    async def _persistently(self, call: tool_pb2.Call | None) -> tool_pb2.SessionResponse:
        """Answers `call` (None: only opens), opened again after each UNAVAILABLE, in time."""
        seconds = deadlines.timeout(self._call_timeout)
        pause = _FIRST_PAUSE_SECONDS
        last: SynthAgentError | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self._attempt(call)
                    except ModelUnavailable:
                        raise
                    except BackendUnavailable as error:
                        last = error
                        await self.close()
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        except TimeoutError as error:
            await self.close()
            why = f" The last attempt: {last.message}" if last else ""
            raise BackendUnavailable(
                f"The tool service did not answer within {seconds:.1f} s.{why}"
            ) from error
        except BaseException:
            # Whatever happened to the call, the session is out of step with the log.
            await self.close()
            raise

    async def _attempt(self, call: tool_pb2.Call | None) -> tool_pb2.SessionResponse:
        response = tool_pb2.SessionResponse()
        if self._lane is None:
            self._lane = self._streams.lane((*accounts.outgoing(), *tracing.outgoing()))
            response = await self._lane.ask(self._open_request())
            opened = response.opened.state_hash
            if self.state_hash and opened != self.state_hash:
                raise StateDiverged(
                    f"Session of task {self._task_id!r} reopened with state {opened}, "
                    f"not {self.state_hash}.",
                    task_id=self._task_id,
                )
            self.state_hash = opened
        if call is not None:
            response = await self._lane.ask(tool_pb2.SessionRequest(call=call))
        return response

    def _open_request(self) -> tool_pb2.SessionRequest:
        return tool_pb2.SessionRequest(
            open=tool_pb2.OpenSession(
                task_id=self._task_id,
                history=[recorded_call_to_proto(call) for call in self._history],
                expected_state_hash=self.state_hash,
            )
        )
