"""The session against the real ToolMock service, in this process and in one that is killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from services.tool_mock.servicer import register
from synthagent.client import SynthAgentClient
from synthagent.errors import BackendUnavailable, NotFound, StateDiverged
from synthagent.server import Running, running
from synthagent.settings import load_settings
from synthagent.tool_session import RecordedCall

TASK_ID = "example-court-booking"
BOOK = '{"court_id": "C-11", "member_id": "M-502", "day": "sunday"}'


@pytest.fixture
async def server(example_database_url: str) -> AsyncIterator[Running]:
    settings = load_settings(
        database_url=example_database_url, port=0, drain_seconds=0.1, call_timeout_seconds=5.0
    )
    async with running(settings, [register]) as opened:
        yield opened


async def test_calls_answer_in_order_and_keep_state(server: Running) -> None:
    session = await server.resources.client.open_session(TASK_ID)
    opened = session.state_hash
    found = await session.call("find_courts", '{"court_type": "clay"}')
    assert found.ok
    assert session.state_hash == opened
    booked = await session.call("book_court", BOOK)
    assert json.loads(booked.result)["booking_id"] == "B-902"
    assert session.state_hash == booked.state_hash != opened
    again = await session.call("book_court", BOOK)
    assert (again.ok, again.error_code) == (False, "court_taken")
    assert len(session.calls) == 3
    await session.close()
    await session.close()


async def test_a_session_goes_on_from_its_history(server: Running) -> None:
    client = server.resources.client
    first = await client.open_session(TASK_ID)
    await first.call("book_court", BOOK)
    await first.close()
    second = await client.open_session(TASK_ID, first.calls, first.state_hash)
    assert second.state_hash == first.state_hash
    assert (await second.call("book_court", BOOK)).error_code == "court_taken"
    await second.close()


async def test_the_unary_call_replays_its_history(server: Running) -> None:
    client = server.resources.client
    result = await client.call_tool(TASK_ID, "book_court", BOOK, [RecordedCall("book_court", BOOK)])
    assert result.error_code == "court_taken"
    assert (await client.call_tool(TASK_ID, "book_court", BOOK)).ok


async def test_another_state_than_expected_is_refused(server: Running) -> None:
    with pytest.raises(StateDiverged):
        await server.resources.client.open_session(TASK_ID, (), "0" * 32)


async def test_an_unknown_task_is_refused(server: Running) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await server.resources.client.open_session("nowhere")


async def test_a_broken_stream_is_opened_again_with_the_log(server: Running) -> None:
    client = server.resources.client
    session = await client.open_session(TASK_ID)
    await session.call("book_court", BOOK)
    before = session.state_hash
    for stream in list(client._session_streams._running):
        stream.cancel()
        await asyncio.wait([stream])
    result = await session.call("book_court", BOOK)
    assert result.error_code == "court_taken"
    assert session.state_hash == before
    await session.close()


Start = Callable[[int], tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def start(example_database_url: str) -> Iterator[Start]:
    """Starts ToolMock as a process on a port (0: any), and gives it with its address."""
    processes: list[subprocess.Popen[str]] = []

    def launch(port: int) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "services", "tool_mock", "--port", str(port)],
            env={**os.environ, "SYNTHAGENT_DATABASE_URL": example_database_url},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())["address"]

    yield launch
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def test_a_session_survives_kill_9_of_its_server(start: Start) -> None:
    process, address = await asyncio.to_thread(start, 0)
    async with SynthAgentClient(address, timeout_seconds=40.0) as client:
        session = await client.open_session(TASK_ID)
        await session.call("find_courts", '{"court_type": "clay"}')
        booked = await session.call("book_court", BOOK)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        calling = asyncio.create_task(session.call("book_court", BOOK))
        await asyncio.to_thread(start, int(address.rpartition(":")[2]))
        again = await calling
        assert again.error_code == "court_taken"
        assert again.state_hash == booked.state_hash
        assert len(session.calls) == 3
        await session.close()


async def test_a_server_that_stays_away_is_unavailable_in_time(start: Start) -> None:
    process, address = await asyncio.to_thread(start, 0)
    async with SynthAgentClient(address, timeout_seconds=1.0) as client:
        session = await client.open_session(TASK_ID)
        process.kill()
        process.wait()
        began = asyncio.get_running_loop().time()
        with pytest.raises(BackendUnavailable, match=r"did not answer within 1\.0 s"):
            await session.call("find_courts", '{"court_type": "clay"}')
        assert asyncio.get_running_loop().time() - began < 5
