"""Sessions of worlds with simulated tools: versions, mixed tools, replay by ledger, judging."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.tool_mock.ledger import Ledger
from services.tool_mock.ledger_session import LedgerSession
from services.tool_mock.session import Sessions
from synthagent.errors import (
    InvalidInput,
    ModelUnavailable,
    PreconditionFailed,
    StateDiverged,
)
from synthagent.metrics import ServerMetrics
from synthagent.store import Store, ledger, tasks
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    CriterionResult,
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    EventBody,
    InvalidReason,
    ToolResult,
)
from synthagent.worlds.protocol import answer_turn
from synthagent.worlds.rubric import judge
from synthagent.worlds.session import Answer
from synthagent.worlds.spec import Task
from tests.services.tool_mock.conftest import OpenLedger, counted
from tests.services.tool_mock.lending import Scribe, lending_task
from tests.synthagent.llm.server import fails, serving

MIXED = lending_task("mixed", mixed=True)
PURE = lending_task()
SEARCH = ("search_shelf", '{"words": "fork"}')
LEND = ("lend_thing", '{"thing": "fork", "member": "Oda"}')
STATUS = ("thing_status", '{"thing": "fork"}')
COUNT = ("count_visit", '{"by": 2}')
COUNT_NOTHING = ("count_visit", '{"by": 0}')
READ = ("read_counter", "{}")
BAD = ("lend_thing", '{"thing": 5, "member": "Oda"}')
CALLS = [SEARCH, COUNT, STATUS, BAD, LEND, STATUS, READ, ("lend_thing", "{"), COUNT, STATUS]


@asynccontextmanager
async def opened(
    answers: Ledger,
    task: Task = MIXED,
    history: list[tuple[str, str]] | None = None,
    expected: str = "",
) -> AsyncIterator[LedgerSession]:
    sessions = Sessions(8, answers)
    async with sessions.open(task, compile_world(task.world), history or [], expected) as session:
        assert isinstance(session, LedgerSession)
        yield session


async def make(session: LedgerSession, *calls: tuple[str, str]) -> list[Answer]:
    return [await session.answer(session.sequence, *call) for call in calls]


async def test_reads_are_shared_and_changes_are_not(open_ledger: OpenLedger) -> None:
    async with serving(Scribe()) as server:
        answers = open_ledger(server.base_url)
        async with opened(answers, PURE) as one, opened(answers, PURE) as two:
            (before,) = await make(one, STATUS)
            lent, after = await make(one, LEND, STATUS)
            assert (await make(two, STATUS))[0] == before
            assert after.result != before.result
            assert two.state_hash == before.state_hash != lent.state_hash == after.state_hash
            assert await make(two, LEND, STATUS) == [lent, after]
            assert one.state_hash == two.state_hash


async def test_the_same_changes_in_another_order_are_another_state(open_ledger: OpenLedger) -> None:
    other = ("lend_thing", '{"thing": "rake", "member": "Oda"}')
    async with serving(Scribe()) as server:
        answers = open_ledger(server.base_url)
        async with opened(answers, PURE) as one, opened(answers, PURE) as two:
            await make(one, LEND, other)
            await make(two, other, LEND)
            assert one.state_hash != two.state_hash


async def test_spelling_of_json_makes_no_other_call(open_ledger: OpenLedger) -> None:
    scribe = Scribe()
    async with serving(scribe) as server, opened(open_ledger(server.base_url), PURE) as session:
        spellings = ['{"words":"fork","limit":3}', ' {"limit": 3.0,\n "words": "f\\u006frk"} ']
        one, other = await make(session, *(("search_shelf", text) for text in spellings))
    assert one == other
    assert len(scribe.asked) == 1


async def test_a_change_of_a_declarative_tool_is_a_change_for_simulated_ones_too(
    open_ledger: OpenLedger,
) -> None:
    scribe = Scribe()
    async with serving(scribe) as server, opened(open_ledger(server.base_url)) as session:
        first, _, second, _, third = await make(
            session, STATUS, COUNT_NOTHING, STATUS, COUNT, STATUS
        )
        assert first == second
        assert third.result != first.result
        assert "count_visit" in scribe.asked[-1][1].split("so far")[1]


async def test_malformed_arguments_never_reach_the_model(
    open_ledger: OpenLedger, metrics: ServerMetrics
) -> None:
    scribe = Scribe()
    bad = {
        '{"thing": 5, "member": "Oda"}': "invalid_arguments",
        '{"member": "Oda"}': "invalid_arguments",
        '{"thing": "fork", "member": "Oda", "day": 1}': "invalid_arguments",
        "fork": "malformed_arguments",
        '["fork"]': "malformed_arguments",
        '{"thing": ' + "[" * 500 + "]" * 500 + "}": "malformed_arguments",
        '{"thing": "' + "x" * 70_000 + '"}': "arguments_too_large",
    }
    async with serving(scribe) as server, opened(open_ledger(server.base_url), PURE) as session:
        fresh = session.state_hash
        results = await make(session, *(("lend_thing", text) for text in bad))
        assert [result.error_code for result in results] == list(bad.values())
        assert not any(result.ok for result in results)
        assert session.state_hash == fresh
        (unknown,) = await make(session, ("lend_things", "{}"))
        assert unknown.error_code == "unknown_tool"
    assert scribe.asked == []
    assert counted(metrics) == {"refused": len(bad)}


async def test_each_call_is_counted_by_its_source(
    open_ledger: OpenLedger, metrics: ServerMetrics
) -> None:
    scribe = Scribe(match=lambda earlier, _: len(earlier))
    async with serving(scribe) as server, opened(open_ledger(server.base_url)) as session:
        again = ("search_shelf", '{"words": "a fork"}')
        await make(session, SEARCH, SEARCH, again, again, BAD, READ, COUNT, LEND)
    assert counted(metrics) == {"generated": 2, "exact": 2, "semantic": 1, "refused": 1}


async def test_a_repeat_of_the_last_call_gets_the_stored_result(open_ledger: OpenLedger) -> None:
    async with serving(Scribe()) as server, opened(open_ledger(server.base_url)) as session:
        first = await session.answer(0, *LEND)
        assert await session.answer(0, *LEND) is first
        with pytest.raises(InvalidInput, match="out of order"):
            await session.answer(2, *LEND)
        with pytest.raises(InvalidInput, match="other content"):
            await session.answer(0, *STATUS)
        assert session.sequence == 1


async def test_a_session_is_opened_again_without_a_model(
    open_ledger: OpenLedger, metrics: ServerMetrics
) -> None:
    scribe = Scribe(match=lambda earlier, _: len(earlier))
    async with serving(scribe) as server, opened(open_ledger(server.base_url)) as session:
        results = await make(session, *CALLS)
    before = counted(metrics)
    for length in range(len(CALLS) + 1):
        expected = results[length - 1].state_hash if length else ""
        async with opened(open_ledger(), MIXED, CALLS[:length], expected) as again:
            assert await make(again, *CALLS[length:]) == results[length:]
    assert counted(metrics)["generated"] == before["generated"]


async def test_another_history_is_another_state(open_ledger: OpenLedger) -> None:
    async with serving(Scribe()) as server:
        answers = open_ledger(server.base_url)
        async with opened(answers) as session:
            await make(session, *CALLS)
        with pytest.raises(StateDiverged):
            async with opened(answers, MIXED, CALLS[:4], session.state_hash):
                pytest.fail("the session opened")


async def test_a_history_that_no_ledger_holds_is_made_again_or_refused(
    open_ledger: OpenLedger,
) -> None:
    with pytest.raises(PreconditionFailed):
        async with opened(open_ledger(), PURE, [LEND]):
            pytest.fail("the session opened")
    async with (
        serving(Scribe()) as server,
        opened(open_ledger(server.base_url), PURE, [LEND]) as session,
    ):
        lent = session.state_hash
    refusal = json.dumps({"error": {"code": "gone", "message": "It is gone."}})
    draft = lending_task("another")
    async with serving(Scribe(lambda _request, _number: refusal)) as server:
        with pytest.raises(StateDiverged):
            async with opened(open_ledger(server.base_url), draft, [LEND], lent):
                pytest.fail("the session opened")


async def test_a_copied_ledger_opens_the_sessions_of_the_draft(
    open_ledger: OpenLedger, store: Store
) -> None:
    draft, final = lending_task("lending-draft"), lending_task("lending-final")
    calls = [SEARCH, LEND, STATUS]
    for task in (draft, final):
        await store.write(lambda c, task=task: tasks.put(c, task))  # type: ignore[misc]  # a default
    async with serving(Scribe()) as server, opened(open_ledger(server.base_url), draft) as session:
        results = await make(session, *calls)
    assert await store.write(lambda c: ledger.copy(c, "lending-draft", "lending-final")) == 3
    async with opened(open_ledger(), final) as again:
        assert await make(again, *calls) == results


async def test_a_fault_of_the_model_is_no_call(open_ledger: OpenLedger) -> None:
    async with (
        serving(fails(500), fails(500), Scribe()) as server,
        opened(open_ledger(server.base_url)) as session,
    ):
        for _ in range(2):
            with pytest.raises(ModelUnavailable):
                await session.answer(0, *LEND)
        assert session.sequence == 0
        assert (await session.answer(0, *LEND)).ok


def log(calls: list[tuple[str, str]], results: list[Answer]) -> list[Event]:
    bodies: list[EventBody] = []
    for (tool, arguments), (ok, result, code, state) in zip(calls, results, strict=True):
        call = AgentAction.CALL
        bodies.append(AgentTurn(text="", action=call, tool=tool, arguments=arguments))
        bodies.append(ToolResult(ok=ok, result=result, error_code=code, state_hash=state))
    bodies += [answer_turn("Done."), EpisodeEnd(outcome=EpisodeOutcome.ANSWERED)]
    return [Event(sequence=number, body=body) for number, body in enumerate(bodies)]


async def test_the_judge_replays_what_the_engine_answers_and_every_state(
    open_ledger: OpenLedger,
) -> None:
    refusal = {"error": {"code": "not_available", "message": "Not now."}}

    def answer(received: object, number: int) -> object:
        return refusal if number == 2 else {"note": f"answer {number}"}

    async with serving(Scribe(answer)) as server, opened(open_ledger(server.base_url)) as session:
        results = await make(session, *CALLS)
    image = compile_world(MIXED.world)
    events = log(CALLS, results)
    judged: dict[str, CriterionResult] = {}
    assert judge(MIXED, image, events, "paper", judged).reward == 1.0
    for position, event in enumerate(events):
        if not isinstance(event.body, ToolResult):
            continue
        changes: list[dict[str, object]] = [{"state_hash": "0" * 32}]
        call = events[position - 1].body
        assert isinstance(call, AgentTurn)
        if call.tool in ("read_counter", "count_visit") or not event.body.ok:
            changes += [{"result": '{"visits":9}'}]
        for change in changes:
            if event.body.error_code == "not_available" and "result" in change:
                continue  # a model's own error
            forged = event.model_copy(update={"body": event.body.model_copy(update=change)})
            tampered = [*events[:position], forged, *events[position + 1 :]]
            verdict = judge(MIXED, image, tampered, "paper", judged)
            assert verdict.invalid_reason is InvalidReason.REPLAY_MISMATCH, (position, change)


async def test_the_judge_takes_a_declarative_tools_not_available_for_its_own(
    open_ledger: OpenLedger,
) -> None:
    calls = [("count_visit", '{"by": 200}'), READ]
    async with opened(open_ledger()) as session:
        results = await make(session, *calls)
    assert results[1].error_code == "not_available"
    verdict = judge(MIXED, compile_world(MIXED.world), log(calls, results), "paper")
    assert verdict.invalid_reason is None
