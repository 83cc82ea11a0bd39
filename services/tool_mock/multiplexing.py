"""Many sessions on one stream: the server's end.

Each session of a stream is a call of its own to everything behind this file: its handler, wrapped
as gRPC's calls are, gets a `Lane` for its context and never knows. So identity, limits, traces,
counts, draining and statuses are those of `Session`. What is saved is the cost of a gRPC message,
which is more than that of a call into a world: those of all sessions travel together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from datetime import timedelta
from typing import Any, NoReturn

import grpc
import structlog
from google.rpc import status_pb2
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing in the stubs

from synthagent.accounts import METADATA_KEY
from synthagent.api.v1 import tool_pb2
from synthagent.errors import InvalidInput, LimitExceeded
from synthagent.failures import DETAILS
from synthagent.outbox import Outbox
from synthagent.statuses import to_status

_log = structlog.get_logger()

SESSIONS_AT_ONCE = 1_000
"""Most sessions that a stream may have open at once."""

_WAITING = 1_024
"""Inputs, or outputs, that wait before whoever brings more of them waits, too."""

_TAKEN_METADATA = frozenset({METADATA_KEY, "traceparent", "tracestate"})
_RETRY_AFTER = timedelta(seconds=1)

_Context = grpc.aio.ServicerContext[Any, Any]
Serve = Callable[[Any, Any], Awaitable[None]]
"""A handler's behaviour: requests, which it does not use, and context."""
_Output = tool_pb2.SessionResponse | bytes | None
"""A response, a failure, or the end."""


class _Ended(Exception):
    """A session ended with an error, which its client has been told."""


class Lane:
    """One session of a stream, as the context of a call of its own."""

    def __init__(self, number: int, metadata: Mapping[str, str], stream: Stream) -> None:
        self._number = number
        self._metadata = tuple(
            (key, value) for key, value in metadata.items() if key in _TAKEN_METADATA
        )
        self._stream = stream
        self._requests: asyncio.Queue[Any] = asyncio.Queue()

    def give(self, request: Any) -> None:
        """A request for the session, or the mark of the end."""
        self._requests.put_nowait(request)

    def drop(self) -> int:
        """How many requests were given that nobody has read, nor will."""
        return self._requests.qsize()

    async def read(self) -> Any:
        """The next request, or the mark of the end."""
        request = await self._requests.get()
        self._stream.was_read(1)
        return request

    async def write(self, response: tool_pb2.SessionResponse) -> None:
        """Sends a response, with what other sessions have to send."""
        await self._stream.put(self._number, response)

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: Any = ()
    ) -> NoReturn:
        """Ends the session with a status."""
        failure = dict(trailing_metadata).get(DETAILS)
        if failure is None:
            status = status_pb2.Status(code=code.value[0], message=details)
            failure = status.SerializeToString()
        await self._stream.put(self._number, failure)
        raise _Ended

    def invocation_metadata(self) -> tuple[Any, ...]:
        """That of the session, then that of the stream."""
        return (*self._metadata, *(self._stream.context.invocation_metadata() or ()))

    def time_remaining(self) -> float | None:
        """Seconds that the stream may still take; None without a deadline."""
        return self._stream.context.time_remaining()

    def auth_context(self) -> Any:
        """Who the stream's client is."""
        return self._stream.context.auth_context()

    def peer(self) -> str:
        """Where the stream comes from."""
        return self._stream.context.peer()


class Stream:
    """A stream and its open sessions."""

    def __init__(self, context: _Context, serve: Serve) -> None:
        """`serve` serves a session, given (unused) requests and its `Lane`."""
        self.context = context
        self._serve = serve
        self._lanes: dict[int, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._highest = 0
        self._unread = 0
        self._room_for_inputs = asyncio.Event()
        self._outbox: Outbox[tuple[int, _Output]] = Outbox(_size, _WAITING)

    async def run(self) -> None:
        """Serves until the client ends the stream and every session has ended."""
        reading, writing = asyncio.create_task(self._read()), asyncio.create_task(self._write())
        try:
            await asyncio.wait([reading, writing], return_when=asyncio.FIRST_EXCEPTION)
            for task in (reading, writing):
                if task.done():
                    task.result()
        finally:
            running = [reading, *self._tasks, writing]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _read(self) -> None:
        while (message := await self.context.read()) is not EOF:
            for given in message.inputs:
                await self._take(given)
        for lane in self._lanes.values():
            self._give(lane, EOF)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._outbox.end()

    async def _take(self, given: tool_pb2.SessionInput) -> None:
        number = given.session
        if number == 0:
            raise InvalidInput("A session's number is at least 1.", field="inputs.session")
        lane = self._lanes.get(number)
        if lane is None:
            if number <= self._highest:
                return  # it has ended
            self._highest = number
            if len(self._lanes) >= SESSIONS_AT_ONCE:
                await self._refuse(number)
                return
            lane = self._open(number, given.metadata)
        if given.HasField("request"):
            self._give(lane, given.request)
        if given.end:
            self._give(lane, EOF)
        while self._unread >= _WAITING:
            self._room_for_inputs.clear()
            await self._room_for_inputs.wait()

    def _give(self, lane: Lane, request: Any) -> None:
        self._unread += 1
        lane.give(request)

    def _open(self, number: int, metadata: Mapping[str, str]) -> Lane:
        lane = self._lanes[number] = Lane(number, metadata, self)
        # In a context of its own: nothing that this call has set is the session's.
        task = asyncio.create_task(self._session(number, lane), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return lane

    async def _refuse(self, number: int) -> None:
        error = LimitExceeded(
            f"A stream may have {SESSIONS_AT_ONCE} sessions open at once; open another stream.",
            retry_after=_RETRY_AFTER,
        )
        failure = to_status(error).SerializeToString()
        await self.put(number, failure)

    async def _session(self, number: int, lane: Lane) -> None:
        try:
            await self._serve(None, lane)
            await self.put(number, None)
        except _Ended:
            pass
        except Exception as error:  # noqa: BLE001 - its client must not wait for ever
            _log.error("session failed", exc_info=error)
            await self.put(number, to_status(error).SerializeToString())
        finally:
            del self._lanes[number]
            self.was_read(lane.drop())

    def was_read(self, requests: int) -> None:
        """So many requests wait no longer."""
        self._unread -= requests
        if self._unread < _WAITING:
            self._room_for_inputs.set()

    async def put(self, number: int, output: _Output) -> None:
        """Sends what a session has to send with the next message, once there is room."""
        await self._outbox.put((number, output))

    async def _write(self) -> None:
        while outputs := await self._outbox.take():
            message = tool_pb2.MultiplexSessionsResponse()
            for number, output in outputs:
                told = message.outputs.add()
                told.session = number
                if isinstance(output, bytes):
                    told.failure = output
                elif output is not None:
                    told.response.CopyFrom(output)
            await self.context.write(message)


def _size(output: tuple[int, _Output]) -> int:
    _, told = output
    if told is None:
        return 0
    return len(told) if isinstance(told, bytes) else told.ByteSize()
