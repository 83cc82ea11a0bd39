"""The client's streams against the real ToolMock service, and against one that is older."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.tool_mock.servicer import register
from synthagent import accounts
from synthagent.api.v1 import tool_pb2, tool_pb2_grpc
from synthagent.channel import open_channel
from synthagent.client import SynthAgentClient
from synthagent.errors import (
    BackendUnavailable,
    LimitExceeded,
    NotFound,
    PreconditionFailed,
    Unauthenticated,
)
from synthagent.security.callers import token_hash
from synthagent.security.channels import ChannelSecurity
from synthagent.server import Running, running
from synthagent.session_streams import LANES, Lane, SessionStreams
from synthagent.settings import load_settings

TASK_ID = "example-court-booking"
FIND = ("find_courts", '{"court_type": "clay"}')
BOOK = ("book_court", '{"court_id": "C-11", "member_id": "M-502", "day": "sunday"}')
Serve = Callable[..., Any]


@pytest.fixture
def serve(example_database_url: str) -> Serve:
    """Opens a server that has the example task."""

    def opened(**settings: Any) -> Any:
        chosen = {"port": 0, "metrics_port": None, "drain_seconds": 0.2} | settings
        return running(load_settings(database_url=example_database_url, **chosen), [register])

    return opened


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Running]:
    async with serve() as opened:
        yield opened


@pytest.fixture
async def streams(server: Running) -> AsyncIterator[SessionStreams]:
    async with open_channel(server.address) as channel:
        opened = SessionStreams(tool_pb2_grpc.ToolMockStub(channel))
        yield opened
        await opened.close()


def opening(task_id: str = TASK_ID) -> tool_pb2.SessionRequest:
    return tool_pb2.SessionRequest(open=tool_pb2.OpenSession(task_id=task_id))


def call(sequence: int, tool: str, arguments: str) -> tool_pb2.SessionRequest:
    return tool_pb2.SessionRequest(
        call=tool_pb2.Call(sequence=sequence, tool=tool, arguments_json=arguments)
    )


def sample(server: Running, name: str, **labels: str) -> float:
    registry = server.resources.metrics.registry
    return registry.get_sample_value(f"synthagent_{name}", labels) or 0.0


def streams_ended(server: Running, code: str = "OK") -> float:
    labels = {"service": "synthagent.api.v1.ToolMock", "method": "MultiplexSessions", "code": code}
    return sample(server, "grpc_requests_total", **labels)


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


async def test_sessions_at_once_share_a_stream_and_leave_nothing(
    server: Running, streams: SessionStreams
) -> None:
    async def one(number: int) -> str:
        lane = streams.lane()
        await lane.ask(opening())
        await asyncio.sleep(0.05)  # so that all are open at once
        answer = await lane.ask(call(0, *(BOOK if number % 2 else FIND)))
        await lane.end()
        return answer.result.result.state_hash

    hashes = await asyncio.gather(*(one(number) for number in range(LANES)))
    assert len(set(hashes[::2])) == len(set(hashes[1::2])) == 1
    assert hashes[0] != hashes[1]
    await eventually(lambda: streams_ended(server) == 1)
    assert not streams._running
    assert sample(server, "tool_sessions_open") == 0


async def test_a_stream_takes_a_bounded_number_of_sessions(
    server: Running, streams: SessionStreams
) -> None:
    held = streams.lane()
    await held.ask(opening())
    for _ in range(LANES):
        lane = streams.lane()
        await lane.ask(opening())
        lane.close()
    assert (await held.ask(call(0, *FIND))).result.result.ok
    held.close()
    # LANES - 1 beside the first, and one on a stream of its own.
    await eventually(lambda: streams_ended(server) == 2)


async def test_a_refused_session_fails_alone_and_the_next_goes_elsewhere(
    server: Running, streams: SessionStreams
) -> None:
    held = streams.lane()
    await held.ask(opening())
    refused = streams.lane()
    with pytest.raises(NotFound, match="nowhere"):
        await refused.ask(opening("nowhere"))
    refused.close()
    assert len(streams._running) == 1
    other = streams.lane()
    await other.ask(opening())
    assert len(streams._running) == 2
    assert (await held.ask(call(0, *FIND))).result.result.ok
    for lane in (held, other):
        lane.close()
        lane.close()
    with pytest.raises(BackendUnavailable):
        await held.ask(call(1, *FIND))
    await eventually(lambda: not streams._running)


async def test_who_gives_up_leaves_the_stream_to_others(streams: SessionStreams) -> None:
    patient = streams.lane()
    await patient.ask(opening())
    impatient = streams.lane()
    impatient.send(opening())
    impatient.close()  # before it was answered
    after = streams.lane()
    assert after._stream is not patient._stream
    await after.ask(opening())
    assert (await patient.ask(call(0, *BOOK))).result.result.ok
    for lane in (patient, after):
        lane.close()


async def test_a_full_server_says_when_to_come_again(serve: Serve) -> None:
    async with serve(max_sessions=1) as server, SynthAgentClient(server.address) as client:
        session = await client.open_session(TASK_ID)
        with pytest.raises(LimitExceeded) as refused:
            await client.open_session(TASK_ID)
        assert refused.value.retry_after is not None
        await session.close()
        await eventually(lambda: sample(server, "tool_sessions_open") == 0)
        again = await client.open_session(TASK_ID)
        assert (await again.call(*FIND)).ok


async def test_a_closed_client_ends_its_sessions(server: Running) -> None:
    client = SynthAgentClient(server.address)
    sessions = [await client.open_session(TASK_ID) for _ in range(3)]
    assert sample(server, "tool_sessions_open") == 3
    calling = asyncio.create_task(sessions[0]._lane.receive())  # type: ignore[union-attr]
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(BackendUnavailable, match="closed"):
        await calling
    with pytest.raises(RuntimeError, match="closed"):
        await client.open_session(TASK_ID)
    await eventually(lambda: sample(server, "tool_sessions_open") == 0)


async def test_each_session_has_the_account_that_it_is_for(
    server: Running, streams: SessionStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []
    get_certified = server.resources.tasks.get_certified

    async def get(task_id: str) -> Any:
        seen.append((task_id, accounts.current()))
        return await get_certified(task_id)

    monkeypatch.setattr(server.resources.tasks, "get_certified", get)
    lanes: list[Lane] = []
    for account in ("run-1", "run-2", ""):
        with accounts.charged(account):
            lanes.append(streams.lane(accounts.outgoing()))
            await lanes[-1].ask(opening())
    assert seen == [(TASK_ID, "run-1"), (TASK_ID, "run-2"), (TASK_ID, "")]
    assert len({id(lane._stream) for lane in lanes}) == 1
    for lane in lanes:
        lane.close()


async def test_another_server_is_told_from_one_that_is_away() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        streams = SessionStreams(tool_pb2_grpc.ToolMockStub(channel))
        with pytest.raises(PreconditionFailed, match="to be replaced first"):
            await streams.lane().ask(opening())
        await streams.close()
    await server.stop(None)


async def test_a_token_that_was_replaced_is_no_fault_of_the_session(
    serve: Serve, tmp_path: Path
) -> None:
    """Sessions on a stream that was let in with the old token go on; new ones use the new one."""
    callers, token = tmp_path / "callers.toml", tmp_path / "token"

    def let_in(name: str) -> None:
        token.write_text(name)
        entry = f'[[caller]]\nname = "a"\nrole = "agent"\ntoken_sha256 = "{token_hash(name)}"\n'
        callers.write_text(entry)

    let_in("first-token")
    security = ChannelSecurity(token_file=token)
    async with (
        serve(callers_file=callers) as server,
        SynthAgentClient(server.address, security=security, timeout_seconds=10.0) as client,
    ):
        held = await client.open_session(TASK_ID)
        await asyncio.sleep(1.1)  # files are looked at once a second
        let_in("second-token")
        await asyncio.sleep(1.1)
        opened = await client.open_session(TASK_ID)
        assert (await opened.call(*FIND)).ok
        assert (await held.call(*FIND)).ok
        token.write_text("nobody's")
        await asyncio.sleep(1.1)
        await held.close()
        await opened.close()
        with pytest.raises(Unauthenticated):
            await client.open_session(TASK_ID)


async def test_a_request_too_large_for_a_message_fails_alone(server: Running) -> None:
    limit = 2**16
    async with SynthAgentClient(server.address, max_message_bytes=limit) as client:
        held = await client.open_session(TASK_ID)
        with pytest.raises(LimitExceeded, match=f"at most {limit}"):
            await (await client.open_session(TASK_ID)).call("find_courts", "x" * limit)
        assert (await held.call(*FIND)).ok
        await held.close()
    assert streams_ended(server, "RESOURCE_EXHAUSTED") == 0


async def test_what_is_sent_together_fits_the_smallest_messages(serve: Serve) -> None:
    limit = 2**16  # the least that may be set
    async with (
        serve(max_message_bytes=limit) as server,
        SynthAgentClient(server.address, max_message_bytes=limit) as client,
    ):

        async def one() -> None:
            session = await client.open_session(TASK_ID)
            for _ in range(3):  # refused with an error that quotes it
                refused = await session.call("x" * 4000, '{"a": "' + "x" * 20_000 + '"}')
                assert refused.error_code == "unknown_tool"
            await session.close()

        await asyncio.gather(*(one() for _ in range(40)))
        assert streams_ended(server, "RESOURCE_EXHAUSTED") == 0
