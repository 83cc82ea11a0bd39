"""Simulated tools at a real server: statuses, metrics, the listing, and what an episode sees."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from services.rollout.counterparts import RemoteCounterparts
from services.rollout.episode import EpisodeFault
from services.tool_mock.servicer import register
from synthagent.api.v1 import tool_pb2, tool_pb2_grpc
from synthagent.channel import open_channel
from synthagent.errors import (
    InvalidInput,
    ModelMalformed,
    ModelUnavailable,
    NotFound,
    PreconditionFailed,
)
from synthagent.server import Running, running
from synthagent.settings import Settings
from synthagent.store import tasks
from synthagent.tool_session import RecordedCall
from synthagent.worlds.episode import AgentAction, AgentTurn, Event, InvalidReason
from tests.services.tool_mock.conftest import counted, tool_role
from tests.services.tool_mock.lending import Scribe, lending_task
from tests.synthagent.llm.server import fails, free_port, hangs, says, serving, slowly

SEARCH = RecordedCall("search_shelf", '{"words": "fork"}')
LEND = RecordedCall("lend_thing", '{"thing": "fork", "member": "Oda"}')
BAD = RecordedCall("lend_thing", '{"thing": "fork"}')
OpenServer = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def open_server(make_settings: Callable[..., Settings]) -> OpenServer:
    """Opens a server with both lending tasks; `base_url` is that of the tool model."""

    @asynccontextmanager
    async def open_one(
        base_url: str | None = None, role: dict[str, object] | None = None, **settings: object
    ) -> AsyncIterator[Running]:
        if base_url:
            settings["tool"] = tool_role(base_url, **role or {})
        async with running(make_settings(**settings), [register]) as server:
            for mixed in (False, True):
                task = lending_task("mixed" if mixed else "lending", mixed=mixed)
                await server.resources.store.write(partial(tasks.put, task=task))
            yield server

    return open_one


async def test_a_stream_of_mixed_calls_and_its_ledger(open_server: OpenServer) -> None:
    async with serving(Scribe()) as model, open_server(model.base_url) as server:
        client = server.resources.client
        session = await client.open_session("mixed")
        opened = session.state_hash
        found = await session.call(*SEARCH)
        visited = await session.call("count_visit", '{"by": 1}')
        lent = await session.call(*LEND)
        refused = await session.call(*BAD)
        assert (found.result, lent.result) == ('{"note":"answer 1"}', '{"note":"answer 2"}')
        assert visited.result == '{"visits":1}'
        assert refused.error_code == "invalid_arguments"
        assert len({opened, visited.state_hash, lent.state_hash}) == 3
        assert opened == found.state_hash
        assert refused.state_hash == lent.state_hash == session.state_hash
        again = await client.call_tool("mixed", *LEND, history=session.calls[:2])
        assert again == lent
        entries = [entry async for entry in client.list_ledger_entries("mixed")]
        assert [entry.tool for entry in entries] == ["search_shelf", "lend_thing"]
        assert entries[1].arguments_json == '{"member":"Oda","thing":"fork"}'
        assert entries[1].state_version != entries[0].state_version
        assert entries[1].next_state_version != entries[1].state_version
        assert entries[1].result.result_json == lent.result
        assert entries[1].result.state_hash == ""
        assert entries[1].source == tool_pb2.LEDGER_SOURCE_GENERATED
        assert counted(server.resources.metrics) == {"generated": 2, "refused": 1, "exact": 1}
        sample = server.resources.metrics.registry.get_sample_value
        name = "synthagent_tool_calls_total"
        assert sample(name, {"error_code": ""}) == 4
        assert sample(name, {"error_code": "invalid_arguments"}) == 1


async def test_a_match_is_listed_with_its_reason(open_server: OpenServer) -> None:
    async with (
        serving(Scribe(match=lambda _earlier, _new: 1)) as model,
        open_server(model.base_url) as server,
    ):
        client = server.resources.client
        for words in ("fork", "forks"):
            await client.call_tool("lending", "search_shelf", f'{{"words": "{words}"}}')
        _, matched = [entry async for entry in client.list_ledger_entries("lending")]
    assert matched.source == tool_pb2.LEDGER_SOURCE_SEMANTIC
    assert matched.match_reason == "reason 2"
    assert matched.matched_arguments_json == '{"words":"fork"}'
    assert matched.result.result_json == '{"note":"answer 1"}'


async def test_the_listing_has_pages_and_refuses_what_is_none(open_server: OpenServer) -> None:
    async with serving(Scribe()) as model, open_server(model.base_url) as server:
        client = server.resources.client
        for number in range(5):
            await client.call_tool("lending", "thing_status", f'{{"thing": "thing {number}"}}')
        async with open_channel(server.address) as channel:
            list_entries: Any = tool_pb2_grpc.ToolMockStub(channel).ListLedgerEntries
            sizes: list[int] = []
            token = last = ""
            while True:
                request = tool_pb2.ListLedgerEntriesRequest(
                    task_id="lending", page_size=2, page_token=token
                )
                page = await list_entries(request, timeout=5)
                sizes.append(len(page.entries))
                last = page.entries[-1].arguments_json
                if not (token := page.next_page_token):
                    break
        assert sizes == [2, 2, 1]
        assert last == '{"thing":"thing 4"}'
        stub = client._tools
        with pytest.raises(NotFound, match="nobody-knows"):
            await anext(client.list_ledger_entries("nobody-knows"))
        assert [entry async for entry in client.list_ledger_entries("mixed")] == []
        for bad in ({"page_token": "soon"}, {"page_size": 1001}):
            request = tool_pb2.ListLedgerEntriesRequest(task_id="lending", **bad)
            with pytest.raises(InvalidInput) as caught:
                await client._unary(stub.ListLedgerEntries, request)
            assert caught.value.field == next(iter(bad))


async def test_every_fault_of_the_model_ends_the_call_and_not_the_session(
    open_server: OpenServer,
) -> None:
    """The session opens again by itself, and its call is made once the model is there."""
    acts = [says("It is on the shelf."), says('{"note": 1}'), fails(503)]
    async with serving(*acts, Scribe()) as model, open_server(model.base_url) as server:
        session = await server.resources.client.open_session("lending")
        with pytest.raises(ModelMalformed):
            await session.call(*SEARCH)
        with pytest.raises(ModelUnavailable):
            await session.call(*SEARCH)
        assert len(session.calls) == 0
        assert (await session.call(*SEARCH)).ok
        assert list(session.calls) == [SEARCH]


async def test_without_a_model_simulated_calls_fail_and_others_do_not(
    open_server: OpenServer,
) -> None:
    async with open_server() as server:
        session = await server.resources.client.open_session("mixed")
        assert (await session.call("count_visit", '{"by": 1}')).ok
        with pytest.raises(PreconditionFailed, match="SYNTHAGENT_TOOL__BASE_URL"):
            await session.call(*SEARCH)
        assert (await session.call(*BAD)).error_code == "invalid_arguments"
        assert (await session.call("count_visit", '{"by": 1}')).result == '{"visits":2}'


@pytest.mark.parametrize("fault", ["no model", "unreachable", "malformed", "hangs"])
async def test_a_fault_makes_the_episode_invalid_never_a_result(
    open_server: OpenServer, fault: str
) -> None:
    turn = AgentTurn(text="", action=AgentAction.CALL, tool=SEARCH.tool, arguments=SEARCH.arguments)
    act = {"malformed": says("Hm."), "hangs": hangs}.get(fault, says("Never said."))
    async with serving(act) as model:
        base_url = {"no model": None, "unreachable": f"http://127.0.0.1:{free_port()}/v1"}.get(
            fault, model.base_url
        )
        role: dict[str, object] = {"timeout_seconds": 0.3}
        async with open_server(base_url, role) as server:
            counterparts = RemoteCounterparts(
                server.resources.client,
                trajectory_id="t",
                task_id="lending",
                reward_preset="paper",
            )
            started = time.perf_counter()
            with pytest.raises(EpisodeFault) as caught:
                await counterparts.call([Event(sequence=0, body=turn)])
            await counterparts.close()
    assert caught.value.reason is InvalidReason.TOOL_FAULT
    assert time.perf_counter() - started < 20  # far below the deadline of the session


async def test_a_model_slower_than_other_calls_may_be_is_waited_for(
    open_server: OpenServer,
) -> None:
    slow = slowly(1.2, Scribe())
    async with (
        serving(slow) as model,
        open_server(model.base_url, {"timeout_seconds": 5}, call_timeout_seconds=0.5) as server,
    ):
        session = await server.resources.client.open_session("lending")
        assert (await session.call(*SEARCH)).ok
        assert len(model.requests) == 1


async def test_a_lost_caller_finds_its_answer_later(open_server: OpenServer) -> None:
    slow = slowly(0.4, Scribe())
    async with serving(slow) as model, open_server(model.base_url) as server:
        client = server.resources.client
        session = await client.open_session("lending")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.call(*LEND), 0.1)
        lent = await session.call(*LEND)
        assert lent.result == '{"note":"answer 1"}'
        assert len(model.requests) == 1


async def test_a_server_closes_while_a_model_is_asked(open_server: OpenServer) -> None:
    asked = asyncio.Event()

    async def hears_and_hangs(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with serving(hears_and_hangs) as model:
        async with open_server(model.base_url) as server:
            session = await server.resources.client.open_session("lending")
            waiting = asyncio.create_task(session.call(*SEARCH))
            await asked.wait()
            started = time.perf_counter()
        seconds = time.perf_counter() - started
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert seconds < 30  # the model would hang for ever
