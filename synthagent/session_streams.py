"""Many sessions on one stream: the client's end.

A `SessionStreams` belongs to a client. A session gets a `Lane`, on a stream that it shares; what
all lanes of a stream have to send travels together. A stream takes a bounded number of lanes in its
life and none after one of them failed or was given up, so that sessions spread over all replicas,
those that are new included, and a session that is opened again goes elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Any

import grpc
from google.rpc import status_pb2
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing in the stubs

from synthagent.api.v1 import tool_pb2, tool_pb2_grpc
from synthagent.errors import (
    BackendUnavailable,
    LimitExceeded,
    PreconditionFailed,
    SynthAgentError,
    Unauthenticated,
)
from synthagent.failures import from_rpc_error, from_status
from synthagent.outbox import Outbox

LANES = 64
"""Sessions that a stream takes in its life."""

_FRAME_BYTES = 16
"""What a message of one input has beside it, at most."""

_CONNECTION_ENDED = "The connection to the tool service ended."


class Lane:
    """One session on a stream that it shares. Used by one task at a time."""

    def __init__(self, number: int, metadata: Sequence[tuple[str, str]], stream: _Stream) -> None:
        self._number = number
        self._metadata: dict[str, str] | None = dict(metadata)
        self._stream = stream
        self._answers: asyncio.Queue[tool_pb2.SessionResponse | None] = asyncio.Queue()
        self._ended: SynthAgentError | None = None
        self._unanswered = 0

    async def ask(self, request: tool_pb2.SessionRequest) -> tool_pb2.SessionResponse:
        """The answer to a request. Raises what a call's status stands for."""
        self.send(request)
        return await self.receive()

    def send(self, request: tool_pb2.SessionRequest) -> None:
        """Sends a request, with what other sessions have to send. Raises LimitExceeded."""
        given = tool_pb2.SessionInput(
            session=self._number, request=request, metadata=self._metadata
        )
        self._stream.send(given)
        self._unanswered += 1
        self._metadata = None

    async def receive(self) -> tool_pb2.SessionResponse:
        """The answer to the oldest request without one."""
        if self._ended is not None and self._answers.empty():
            raise self._ended
        answer = await self._answers.get()
        if answer is None:
            assert self._ended is not None  # noqa: S101 - it was set first
            raise self._ended
        self._unanswered -= 1
        return answer

    def close(self) -> None:
        """Ends the session; the server then forgets it. A second close does nothing."""
        if self._ended is None:
            self._ended = BackendUnavailable("The session is closed.")
            self._stream.leave(self._number, given_up=self._unanswered > 0)

    async def end(self) -> None:
        """Ends the session, and waits until the server has forgotten it."""
        if self._ended is None:
            self._stream.send(tool_pb2.SessionInput(session=self._number, end=True))
        while self._ended is None:
            await self._answers.get()

    def take(self, answer: tool_pb2.SessionResponse) -> None:
        """What the server sent."""
        self._answers.put_nowait(answer)

    def fail(self, error: SynthAgentError) -> None:
        """The session has ended on the server's side, or its stream has."""
        if self._ended is None:
            self._ended = error
        self._answers.put_nowait(None)


class _Stream:
    """A stream and its lanes."""

    def __init__(self, stub: tool_pb2_grpc.ToolMockStub, max_message_bytes: int) -> None:
        self.taken = 0
        self.retired = False
        self._stub = stub
        self._max_message_bytes = max_message_bytes
        self._lanes: dict[int, Lane] = {}
        self._outbox: Outbox[tool_pb2.SessionInput] = Outbox(tool_pb2.SessionInput.ByteSize)
        # In a context of its own: the first session's account and trace are not the stream's.
        self.task = asyncio.create_task(self._run(), context=Context())

    def open(self, metadata: Sequence[tuple[str, str]]) -> Lane:
        self.taken += 1
        self.retired = self.taken >= LANES
        lane = self._lanes[self.taken] = Lane(self.taken, metadata, self)
        return lane

    def send(self, given: tool_pb2.SessionInput) -> None:
        size = given.ByteSize() + _FRAME_BYTES
        if size > self._max_message_bytes:  # on the stream it would end the others' sessions, too
            raise LimitExceeded(
                f"The request has {size} bytes, and a message at most {self._max_message_bytes}."
            )
        self._outbox.put_nowait(given)

    def leave(self, number: int, *, given_up: bool) -> None:
        if self._lanes.pop(number, None) is not None:
            self.send(tool_pb2.SessionInput(session=number, end=True))
            self._left(retire=given_up)

    def _left(self, *, retire: bool) -> None:
        """A lane has left; `retire` says that no other is to come."""
        self.retired = self.retired or retire or not self._lanes
        if not self._lanes:
            self._outbox.put_nowait(None)

    async def _run(self) -> None:
        error: SynthAgentError = BackendUnavailable(_CONNECTION_ENDED)
        opening: Any = self._stub.MultiplexSessions  # its stub asks for requests up front
        call = opening()
        writing = asyncio.create_task(self._write(call))
        try:
            error = await self._read(call)
        except asyncio.CancelledError:
            error = BackendUnavailable("The client is closed.")
            raise
        finally:
            self.retired = True
            call.cancel()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            for lane in self._lanes.values():
                lane.fail(error)
            self._lanes.clear()

    async def _write(self, call: Any) -> None:
        """Writes what is there until no lane is left, and none will come."""
        while inputs := await self._outbox.take():
            await call.write(tool_pb2.MultiplexSessionsRequest(inputs=inputs))
        await call.done_writing()

    async def _read(self, call: Any) -> SynthAgentError:
        """Gives lanes what comes, until the stream ends; returns why it did."""
        try:
            while (message := await call.read()) is not EOF:
                for output in message.outputs:
                    self._take(output)
            await call.wait_for_connection()  # raises what the stream ended with
        except grpc.aio.AioRpcError as error:
            return _why(error)
        return BackendUnavailable(_CONNECTION_ENDED)

    def _take(self, output: tool_pb2.SessionOutput) -> None:
        number = output.session
        lane = self._lanes.get(number)
        if lane is None:
            return  # its client has left
        if output.HasField("response"):
            lane.take(output.response)
            return
        del self._lanes[number]
        failed = output.HasField("failure")
        if failed:
            lane.fail(self._failure(number, status_pb2.Status.FromString(output.failure)))
        else:
            lane.fail(BackendUnavailable("The session has ended."))
        self._left(retire=failed)  # another replica may do better

    def _failure(self, number: int, status: status_pb2.Status) -> SynthAgentError:
        error = from_status(status)
        if isinstance(error, Unauthenticated) and number > 1:
            # The stream was let in with a token that has been replaced since.
            return BackendUnavailable(error.message)
        return error


def _why(error: grpc.aio.AioRpcError) -> SynthAgentError:
    # A message that cannot be written leaves INTERNAL where the connection broke; a status of the
    # server's own has details.
    if error.code() is grpc.StatusCode.INTERNAL and not error.trailing_metadata():
        return BackendUnavailable(_CONNECTION_ENDED)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return PreconditionFailed(
            "What answers at the tool service's address does not know ToolMock/MultiplexSessions: "
            "it is another service, or an older version, which is to be replaced first."
        )
    return from_rpc_error(error)


class SessionStreams:
    """The streams of a client to one ToolMock. Used by one event loop."""

    def __init__(
        self, stub: tool_pb2_grpc.ToolMockStub, max_message_bytes: int = 16 * 2**20
    ) -> None:
        self._stub = stub
        self._max_message_bytes = max_message_bytes
        self._closed = False
        self._open: _Stream | None = None
        self._running: set[asyncio.Task[None]] = set()

    def lane(self, metadata: Sequence[tuple[str, str]] = ()) -> Lane:
        """A lane for a session, which its user closes.

        `metadata` is what a call of the session's own would have: its account and its trace.
        Raises RuntimeError once closed.
        """
        if self._closed:
            raise RuntimeError("The client is closed.")
        if self._open is None or self._open.retired:
            self._open = _Stream(self._stub, self._max_message_bytes)
            self._running.add(self._open.task)
            self._open.task.add_done_callback(self._running.discard)
        return self._open.open(metadata)

    async def close(self) -> None:
        """Ends every stream, and with it its sessions."""
        self._closed = True
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
