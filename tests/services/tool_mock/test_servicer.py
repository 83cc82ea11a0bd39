"""ToolMock at a real server: every status of its contract, and a server that is killed."""

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing in the stubs

from services.tool_mock.servicer import register
from synthagent.api.v1 import tool_pb2, tool_pb2_grpc
from synthagent.client import SynthAgentClient
from synthagent.server import Running, running
from synthagent.settings import Settings
from synthagent.store import tasks
from synthagent.worlds.certify import certify
from synthagent.worlds.spec import Task
from tests.services.tool_mock.served import Served

TASK_ID = "example-court-booking"
FIND = ("find_courts", '{"court_type": "clay"}')
BOOK = ("book_court", '{"court_id": "C-11", "member_id": "M-502", "day": "sunday"}')
# The generated types are those of the blocking stub; at run time it is the one of grpc.aio.
Stub = Any
Stream = Any


@pytest.fixture
async def server(make_settings: Callable[..., Settings]) -> AsyncIterator[Running]:
    async with running(make_settings(max_sessions=2), [register]) as opened:
        yield opened


@pytest.fixture
async def stub(server: Running) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield tool_pb2_grpc.ToolMockStub(channel)


def opening(task_id: str = TASK_ID, state: str = "") -> tool_pb2.SessionRequest:
    return tool_pb2.SessionRequest(
        open=tool_pb2.OpenSession(task_id=task_id, expected_state_hash=state)
    )


def call(sequence: int, tool: str, arguments: str) -> tool_pb2.SessionRequest:
    return tool_pb2.SessionRequest(
        call=tool_pb2.Call(sequence=sequence, tool=tool, arguments_json=arguments)
    )


async def ask(stream: Stream, request: tool_pb2.SessionRequest) -> tool_pb2.SessionResponse:
    await stream.write(request)
    response = await stream.read()
    assert isinstance(response, tool_pb2.SessionResponse), "the stream ended"
    return response


async def status_of(stream: Stream, *requests: tool_pb2.SessionRequest) -> grpc.StatusCode:
    """The status of a session whose last request is refused."""
    for request in requests[:-1]:
        await ask(stream, request)
    await stream.write(requests[-1])
    code = await stream.code()
    assert isinstance(code, grpc.StatusCode)
    return code


async def test_each_response_tells_of_its_own_call(stub: Stub) -> None:
    stream = stub.Session()
    opened = (await ask(stream, opening())).opened
    assert len(opened.state_hash) == 32
    found = (await ask(stream, call(0, *FIND))).result
    assert json.loads(found.result.result_json)["courts"][0]["court_id"] == "C-11"
    booked = (await ask(stream, call(1, *BOOK))).result
    taken = (await ask(stream, call(2, *BOOK))).result
    again = (await ask(stream, call(3, *FIND))).result
    assert [m.sequence for m in (found, booked, taken, again)] == [0, 1, 2, 3]
    assert [m.result.ok for m in (found, booked, taken, again)] == [True, True, False, True]
    assert taken.result.error_code == "court_taken"
    assert again.result.error_code == ""
    assert booked.result.state_hash != found.result.state_hash == opened.state_hash
    await stream.done_writing()
    assert await stream.read() is EOF
    assert await stream.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("find_courts", "{", "malformed_arguments"),
        ("find_courts", '["clay"]', "malformed_arguments"),
        ("no_such_tool", "{}", "unknown_tool"),
        ("find_courts", '{"court_type": 7}', "invalid_arguments"),
        ("find_courts", '{"court_type": "' + "x" * 70_000 + '"}', "arguments_too_large"),
    ],
)
async def test_bad_input_is_an_error_that_the_agent_recovers_from(
    stub: Stub, tool: str, arguments: str, code: str
) -> None:
    stream = stub.Session()
    await ask(stream, opening())
    refused = (await ask(stream, call(0, tool, arguments))).result.result
    assert refused.error_code == code
    assert json.loads(refused.result_json)["error"]["code"] == code
    assert (await ask(stream, call(1, *FIND))).result.result.ok
    stream.cancel()


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([call(0, *FIND)], grpc.StatusCode.INVALID_ARGUMENT),
        ([tool_pb2.SessionRequest()], grpc.StatusCode.INVALID_ARGUMENT),
        ([opening("nobody-knows")], grpc.StatusCode.NOT_FOUND),
        ([opening("uncertified")], grpc.StatusCode.FAILED_PRECONDITION),
        ([opening(state="0" * 32)], grpc.StatusCode.ABORTED),
        ([opening(), opening()], grpc.StatusCode.INVALID_ARGUMENT),
        ([opening(), call(1, *FIND)], grpc.StatusCode.INVALID_ARGUMENT),
        ([opening(), call(0, *FIND), call(0, *BOOK)], grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_refusals(
    stub: Stub,
    requests: list[tool_pb2.SessionRequest],
    expected: grpc.StatusCode,
) -> None:
    assert await status_of(stub.Session(), *requests) is expected


async def test_sessions_are_limited_and_counted(server: Running, stub: Stub) -> None:
    def open_sessions() -> float | None:
        return server.resources.metrics.registry.get_sample_value("synthagent_tool_sessions_open")

    streams = [stub.Session(), stub.Session()]
    for stream in streams:
        await ask(stream, opening())
    assert open_sessions() == 2
    refused = stub.Session()
    assert await status_of(refused, opening()) is grpc.StatusCode.RESOURCE_EXHAUSTED
    metadata = dict(await refused.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    for stream in streams:
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
    assert open_sessions() == 0


async def test_a_long_session_keeps_nothing_of_its_answers(
    server: Running, stub: Stub, certified_example: Task
) -> None:
    name = "n" * 4000
    content = certified_example.model_dump(mode="json") | {
        "task_id": "long-name",
        "certificate": None,
    }
    content["world"]["tables"][1]["rows"][2][1] = name
    long = Task.model_validate(content)
    task = long.model_copy(update={"certificate": certify(long)})
    await server.resources.store.write(lambda connection: tasks.put(connection, task))
    stream = stub.Session()
    await ask(stream, opening("long-name"))
    process, before = psutil.Process(), 0
    for sequence in range(3000):
        answer = await ask(stream, call(sequence, "find_member", json.dumps({"name": name})))
        assert len(answer.result.result.result_json) > 4000
        if sequence == 500:
            before = process.memory_info().rss
    assert process.memory_info().rss - before < 3e6  # and 10e6 were answered
    await stream.done_writing()


async def test_one_call_forgets_what_it_did(server: Running) -> None:
    client = server.resources.client
    for _ in range(2):
        result = await client.call_tool(TASK_ID, *BOOK)
        assert json.loads(result.result)["booking_id"] == "B-902"


async def test_a_session_outlives_a_killed_server(database_url: str) -> None:
    first = Served(database_url)
    async with SynthAgentClient(tool_mock=first.address) as client:
        session = await client.open_session(TASK_ID)
        for number in range(20):
            await session.call(*(BOOK if number == 7 else FIND))
    first.kill()
    second = Served(database_url)
    try:
        async with SynthAgentClient(tool_mock=second.address) as client:
            await client.call_tool(TASK_ID, *FIND)  # connects, and loads the task once
            started = time.perf_counter()
            reopened = await client.open_session(TASK_ID, session.calls, session.state_hash)
            milliseconds = (time.perf_counter() - started) * 1000
            assert reopened.state_hash == session.state_hash
            assert (await reopened.call(*BOOK)).error_code == "court_taken"
        assert milliseconds < 100
    finally:
        second.kill()
