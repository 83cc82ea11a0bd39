"""Many sessions on one stream of a real server: each as if it were alone."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing in the stubs

from services.tool_mock import multiplexing
from services.tool_mock.servicer import register
from synthagent.api.v1 import tool_pb2, tool_pb2_grpc
from synthagent.errors import LimitExceeded
from synthagent.failures import from_status
from synthagent.security.callers import token_hash
from synthagent.server import Running, running
from synthagent.settings import Settings
from tests.services.tool_mock.test_servicer import BOOK, FIND, call, opening

Stream = Any
LIMIT = 4


@pytest.fixture
async def server(make_settings: Callable[..., Settings]) -> AsyncIterator[Running]:
    async with running(make_settings(max_sessions=LIMIT), [register]) as opened:
        yield opened


@pytest.fixture
async def stream(server: Running) -> AsyncIterator[Stream]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = tool_pb2_grpc.ToolMockStub(channel)
        yield stub.MultiplexSessions()


def given(
    session: int, request: tool_pb2.SessionRequest | None = None, *, end: bool = False
) -> tool_pb2.SessionInput:
    return tool_pb2.SessionInput(session=session, request=request, end=end)


async def send(stream: Stream, *inputs: tool_pb2.SessionInput) -> None:
    await stream.write(tool_pb2.MultiplexSessionsRequest(inputs=inputs))


async def outputs(stream: Stream, count: int) -> list[tool_pb2.SessionOutput]:
    """The next outputs, exactly so many."""
    found: list[tool_pb2.SessionOutput] = []
    while len(found) < count:
        message = await asyncio.wait_for(stream.read(), 10)
        assert message is not EOF, await stream.code()
        found += message.outputs
    assert len(found) == count
    return found


def of(session: int, found: Iterable[tool_pb2.SessionOutput]) -> list[tool_pb2.SessionOutput]:
    return [output for output in found if output.session == session]


def failure(output: tool_pb2.SessionOutput) -> status_pb2.Status:
    assert output.WhichOneof("output") == "failure"
    return status_pb2.Status.FromString(output.failure)


def sample(server: Running, name: str, **labels: str) -> float:
    registry = server.resources.metrics.registry
    return registry.get_sample_value(f"synthagent_{name}", labels) or 0.0


async def test_sessions_keep_their_own_state_and_order(stream: Stream) -> None:
    await send(
        stream,
        *(given(n, opening()) for n in (1, 2)),
        given(1, call(0, *BOOK)),
        given(2, call(0, *FIND)),
        given(1, call(1, *BOOK)),
        given(2, call(1, *BOOK)),
    )
    found = await outputs(stream, 6)
    first, second = of(1, found), of(2, found)
    assert first[0].response.opened == second[0].response.opened
    for session in (first, second):
        assert [output.response.result.sequence for output in session[1:]] == [0, 1]
    codes = [o.response.result.result.error_code for o in (*first[1:], *second[1:])]
    assert codes == ["", "court_taken", "", ""]
    booked = json.loads(second[2].response.result.result.result_json)
    assert booked["booking_id"] == "B-902"
    await stream.done_writing()
    ends = await outputs(stream, 2)
    assert {(o.session, o.WhichOneof("output")) for o in ends} == {(1, None), (2, None)}
    assert await stream.read() is EOF
    assert await stream.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (call(0, *FIND), code_pb2.INVALID_ARGUMENT),
        (tool_pb2.SessionRequest(), code_pb2.INVALID_ARGUMENT),
        (opening("nobody-knows"), code_pb2.NOT_FOUND),
        (opening("uncertified"), code_pb2.FAILED_PRECONDITION),
        (opening(state="0" * 32), code_pb2.ABORTED),
    ],
)
async def test_an_error_ends_its_session_alone(
    server: Running, stream: Stream, request_: tool_pb2.SessionRequest, code: int
) -> None:
    await send(stream, given(1, opening()), given(2, request_), given(2, call(0, *FIND)))
    found = await outputs(stream, 2)
    assert failure(of(2, found)[0]).code == code
    name = code_pb2.Code.Name(code)
    labels = {"service": "synthagent.api.v1.ToolMock", "method": "Session", "code": name}
    assert sample(server, "grpc_requests_total", **labels) == 1
    # Its number stays dead, and the other session lives.
    await send(stream, given(2, opening()), given(1, call(0, *BOOK)))
    (booked,) = await outputs(stream, 1)
    assert booked.session == 1
    assert booked.response.result.result.ok
    stream.cancel()


async def test_sessions_of_all_streams_share_the_servers_limit(
    server: Running, stream: Stream
) -> None:
    await send(stream, *(given(n, opening()) for n in range(1, LIMIT + 2)))
    found = await outputs(stream, LIMIT + 1)
    (refused,) = of(LIMIT + 1, found)
    status = failure(refused)
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    assert sample(server, "tool_sessions_open") == LIMIT
    labels = {"service": "synthagent.api.v1.ToolMock", "method": "Session"}
    assert sample(server, "grpc_requests_in_flight", **labels) == LIMIT
    await send(stream, given(1, end=True), given(LIMIT + 2, opening()))
    ended, opened = await outputs(stream, 2)
    assert (ended.session, ended.WhichOneof("output")) == (1, None)
    assert opened.response.opened.state_hash
    stream.cancel()
    for _ in range(100):
        if sample(server, "tool_sessions_open") == 0:
            break
        await asyncio.sleep(0.02)
    assert sample(server, "tool_sessions_open") == 0
    assert sample(server, "grpc_requests_in_flight", **labels) == 0


async def test_a_stream_has_a_limit_of_its_own(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiplexing, "SESSIONS_AT_ONCE", 2)
    await send(stream, *(given(n, opening()) for n in (1, 2, 3)))
    found = await outputs(stream, 3)
    error = from_status(failure(of(3, found)[0]))
    assert isinstance(error, LimitExceeded)
    assert error.retry_after is not None
    assert "open another stream" in error.message
    stream.cancel()


async def test_a_session_without_a_number_ends_the_stream(stream: Stream) -> None:
    await send(stream, given(0, opening()))
    assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "at least 1" in await stream.details()


async def test_what_waits_is_bounded_on_both_sides(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends without reading is made to wait, and loses nothing."""
    monkeypatch.setattr(multiplexing, "_WAITING", 8)
    count = 3_000
    await send(stream, given(1, opening()), given(2, opening()))

    async def write() -> None:
        for number in range(count):
            await send(stream, *(given(n, call(number, *FIND)) for n in (1, 2)))
        await stream.done_writing()

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.5)
    read: Counter[int] = Counter()
    while (message := await stream.read()) is not EOF:
        assert len(message.outputs) <= 8 + 2
        for output in message.outputs:
            if output.HasField("response"):
                expected = max(0, read[output.session] - 1)
                assert output.response.result.sequence == expected
                read[output.session] += 1
    await writing
    assert read == {1: count + 1, 2: count + 1}
    assert await stream.code() is grpc.StatusCode.OK


async def test_a_caller_has_its_limits_in_each_session(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    callers = tmp_path / "callers.toml"
    tokens = {"agent": "first-token", "viewer": "second-token"}
    entries = (
        f'[[caller]]\nname = "{role}"\nrole = "{role}"\ntoken_sha256 = "{token_hash(token)}"\n'
        for role, token in tokens.items()
    )
    limits = "[caller.limits]\nsessions = 2\nepisode_events = 1\n"
    callers.write_text(limits.join(entries))
    settings = make_settings(callers_file=callers)
    async with (
        running(settings, [register]) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub: Any = tool_pb2_grpc.ToolMockStub(channel)
        stream = stub.MultiplexSessions(metadata=(("authorization", "Bearer first-token"),))
        await send(stream, *(given(n, opening()) for n in (1, 2, 3)))
        found = await outputs(stream, 3)
        too_many = from_status(failure(of(3, found)[0]))
        assert isinstance(too_many, LimitExceeded)
        assert too_many.metadata["limit"] == "sessions"
        await send(stream, *(given(1, call(n, *FIND)) for n in (0, 1)), given(2, call(0, *FIND)))
        found = await outputs(stream, 3)
        too_long = from_status(failure(of(1, found)[1]))
        assert too_long.metadata["limit"] == "episode_events"
        assert of(2, found)[0].response.result.result.ok
        # A session's metadata proves nothing about who calls.
        claim = {"authorization": "Bearer second-token"}
        await send(stream, tool_pb2.SessionInput(session=4, request=opening(), metadata=claim))
        (opened,) = await outputs(stream, 1)
        assert opened.response.opened.state_hash
        looking = stub.MultiplexSessions(metadata=(("authorization", "Bearer second-token"),))
        assert await looking.code() is grpc.StatusCode.PERMISSION_DENIED
        stream.cancel()


async def test_draining_ends_sessions_with_unavailable(
    make_settings: Callable[..., Settings],
) -> None:
    context = running(make_settings(drain_seconds=0.2), [register])
    server = await context.__aenter__()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = tool_pb2_grpc.ToolMockStub(channel)
        stream = stub.MultiplexSessions()
        await send(stream, given(1, opening()))
        await outputs(stream, 1)
        closing = asyncio.create_task(context.__aexit__(None, None, None))
        await asyncio.sleep(0.05)
        await send(stream, given(2, opening()))
        (refused,) = await outputs(stream, 1)
        assert (refused.session, failure(refused).code) == (2, code_pb2.UNAVAILABLE)
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        await closing


async def test_a_session_whose_machinery_breaks_is_told(
    server: Running, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a counter is missing")

    monkeypatch.setattr(server.resources.metrics.requests, "labels", broken)
    await send(stream, given(1, opening(task_id="nobody-knows")))
    (told,) = await outputs(stream, 1)
    assert failure(told).code == code_pb2.INTERNAL
    assert "counter" not in failure(told).message
    stream.cancel()


async def test_a_client_is_read_no_faster_than_its_sessions_read() -> None:
    read = 0

    class Endless:
        """A client that calls its one session without end."""

        async def read(self) -> tool_pb2.MultiplexSessionsRequest:
            nonlocal read
            read += 1
            return tool_pb2.MultiplexSessionsRequest(inputs=[given(1, call(0, *FIND))] * 300)

    async def stands_still(_requests: Any, _lane: Any) -> None:
        await asyncio.sleep(60)

    context: Any = Endless()
    stream = multiplexing.Stream(context, stands_still)
    serving = asyncio.create_task(stream.run())
    await asyncio.sleep(0.2)
    assert (read, stream._unread) == (4, multiplexing._WAITING)  # in the middle of a message
    serving.cancel()
    await asyncio.wait([serving])
