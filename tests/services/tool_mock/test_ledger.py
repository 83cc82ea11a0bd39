"""The order of answering: exact, semantic, generated; and one answer whoever asks how often."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from services.tool_mock.ledger import Ledger
from services.tool_mock.simulated_call import Course, PastCall, SimulatedCall
from synthagent import deadlines
from synthagent.errors import (
    ModelMalformed,
    ModelTruncated,
    ModelUnavailable,
    PreconditionFailed,
)
from synthagent.store import Store, ledger
from synthagent.store.ledger import LedgerEntry, Source
from synthagent.worlds.values import canonical_json
from synthagent.worlds.versions import next_version, root_version
from tests.services.tool_mock.conftest import OpenLedger
from tests.services.tool_mock.lending import Scribe, lending_task
from tests.synthagent.llm.server import fails, free_port, says, serving

TASK = lending_task()
ROOT = root_version(TASK.world)


def call_of(tool: str, **arguments: object) -> SimulatedCall:
    found = TASK.world.tool(tool)
    assert found is not None
    return SimulatedCall(TASK, found, canonical_json(arguments).decode(), (ROOT,), ())


async def ask(asked: Ledger, call: SimulatedCall) -> tuple[LedgerEntry, str]:
    key = (call.task.task_id, call.tool.name, call.arguments, call.version)
    entry = asked.known(key)
    return (entry, "exact") if entry else await asked.answer(key, call)


async def test_an_answer_is_generated_once_and_then_exact_in_every_replica(
    open_ledger: OpenLedger,
) -> None:
    scribe = Scribe()
    async with serving(scribe) as server:
        first, second = open_ledger(server.base_url), open_ledger(server.base_url)
        made, source = await ask(first, call_of("search_shelf", words="fork"))
        assert (source, made.source) == ("generated", Source.GENERATED)
        assert made.ok
        assert json.loads(made.result) == {"note": "answer 1"}
        for replica in (first, second, second):
            found, source = await ask(replica, call_of("search_shelf", words="fork"))
            assert (found, source) == (made, "exact")
    assert len(scribe.asked) == 1  # and nothing was compared with an empty ledger


async def test_a_semantic_match_repeats_the_entry_with_its_reason(open_ledger: OpenLedger) -> None:
    scribe = Scribe(match=lambda earlier, _: earlier.index('{"words":"digging fork"}') + 1)
    async with serving(scribe) as server:
        asked = open_ledger(server.base_url)
        await ask(asked, call_of("search_shelf", words="rake"))
        scribe._match = lambda _earlier, _new: 0
        made, _ = await ask(asked, call_of("search_shelf", words="digging fork"))
        scribe._match = lambda earlier, _: earlier.index('{"words":"digging fork"}') + 1
        matched, source = await ask(asked, call_of("search_shelf", words="fork for digging"))
        assert source == "semantic"
        assert matched.result == made.result
        assert matched.matched_arguments == '{"words":"digging fork"}'
        assert matched.match_reason.startswith("reason ")
        assert matched.arguments == '{"words":"fork for digging"}'
        before = len(scribe.asked)
        again = await ask(asked, call_of("search_shelf", words="fork for digging"))
        assert again == (matched, "exact")
        assert len(scribe.asked) == before


async def test_only_calls_of_the_same_tool_and_version_are_compared(
    open_ledger: OpenLedger,
) -> None:
    scribe = Scribe(match=lambda _earlier, _new: 1)
    async with serving(scribe) as server:
        asked = open_ledger(server.base_url)
        await ask(asked, call_of("thing_status", thing="fork"))
        later = replace(call_of("thing_status", thing="the fork"), versions=(ROOT, "1" * 32))
        for call in (call_of("search_shelf", words="fork"), later):
            assert (await ask(asked, call))[1] == "generated"
    assert scribe.of("semantic_match") == []


async def test_an_error_of_the_service_is_an_answer_like_any_other(open_ledger: OpenLedger) -> None:
    refusal = {"error": {"code": "already_lent", "message": "The fork is out."}}
    async with serving(says(json.dumps(refusal))) as server:
        asked = open_ledger(server.base_url)
        entry, _ = await ask(asked, call_of("lend_thing", thing="fork", member="Oda"))
    assert (entry.ok, entry.error_code) == (False, "already_lent")
    assert json.loads(entry.result) == refusal
    assert entry.next_state_version == entry.state_version == ROOT


async def test_a_change_leads_to_a_version_of_its_own(open_ledger: OpenLedger) -> None:
    async with serving(Scribe()) as server:
        asked = open_ledger(server.base_url)
        call = call_of("lend_thing", thing="fork", member="Oda")
        entry, _ = await ask(asked, call)
        read, _ = await ask(asked, call_of("thing_status", thing="fork"))
    assert entry.next_state_version == next_version(ROOT, "lend_thing", call.arguments) != ROOT
    assert read.next_state_version == ROOT


async def test_a_result_that_is_too_long_is_the_engines_error(open_ledger: OpenLedger) -> None:
    tool = TASK.world.tools[0].model_copy(update={"output_schema": None})
    call = replace(call_of("search_shelf", words="all"), tool=tool)
    async with serving(says(json.dumps({"note": "x" * 17_000}))) as server:
        entry, _ = await ask(open_ledger(server.base_url), call)
    assert (entry.ok, entry.error_code) == (False, "result_too_large")
    assert json.loads(entry.result)["error"]["code"] == "result_too_large"


async def test_what_does_not_fit_the_output_schema_is_repaired_or_a_fault(
    open_ledger: OpenLedger, store: Store
) -> None:
    bad, good = '{"note": 5}', '{"note": "there"}'
    async with serving(says(bad), says(good), says(bad)) as server:
        asked = open_ledger(server.base_url)
        entry, _ = await ask(asked, call_of("thing_status", thing="fork"))
        assert json.loads(entry.result) == {"note": "there"}
        unfit = call_of("search_shelf", words="rake")
        with pytest.raises(ModelMalformed):
            await ask(asked, unfit)
    key = (TASK.task_id, unfit.tool.name, unfit.arguments, ROOT)
    assert await store.read(lambda c: ledger.find(c, *key)) is None


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (fails(500), ModelUnavailable),
        (fails(429), ModelUnavailable),
        (says("It is on the shelf."), ModelMalformed),
        (says('{"note": "on the', finish_reason="length"), ModelTruncated),
    ],
)
async def test_a_fault_of_the_model_is_no_answer(
    open_ledger: OpenLedger, store: Store, act: Any, error: type[Exception]
) -> None:
    call = call_of("search_shelf", words="fork")
    async with serving(act) as server:
        asked = open_ledger(server.base_url)
        for _ in range(2):
            with pytest.raises(error):
                await ask(asked, call)
    key = (TASK.task_id, call.tool.name, call.arguments, ROOT)
    assert await store.read(lambda c: ledger.find(c, *key)) is None


async def test_without_a_model_only_what_is_known_is_answered(open_ledger: OpenLedger) -> None:
    async with serving(Scribe()) as server:
        entry, _ = await ask(open_ledger(server.base_url), call_of("search_shelf", words="fork"))
    without = open_ledger()
    assert await ask(without, call_of("search_shelf", words="fork")) == (entry, "exact")
    with pytest.raises(PreconditionFailed, match="SYNTHAGENT_TOOL__BASE_URL"):
        await ask(without, call_of("search_shelf", words="rake"))


async def test_an_unreachable_model_is_a_fault(open_ledger: OpenLedger) -> None:
    with pytest.raises(ModelUnavailable):
        await ask(
            open_ledger(f"http://127.0.0.1:{free_port()}/v1"), call_of("search_shelf", words="fork")
        )


async def test_identical_calls_in_flight_ask_once(open_ledger: OpenLedger) -> None:
    scribe = Scribe(pause_seconds=0.05)
    async with serving(scribe) as server:
        asked = open_ledger(server.base_url)
        answers = await asyncio.gather(
            *(ask(asked, call_of("search_shelf", words="fork")) for _ in range(50))
        )
    assert len(scribe.asked) == 1
    assert len({entry for entry, _ in answers}) == 1
    assert sorted(source for _, source in answers) == ["exact"] * 49 + ["generated"]


async def test_who_gives_up_waiting_takes_the_answer_from_nobody(open_ledger: OpenLedger) -> None:
    scribe = Scribe(pause_seconds=0.2)
    async with serving(scribe) as server:
        asked = open_ledger(server.base_url)
        call = call_of("search_shelf", words="fork")

        async def impatient() -> None:
            deadlines.begin(0.05)  # of the first caller, not of the answer
            await asyncio.wait_for(ask(asked, call), 0.05)

        with pytest.raises(TimeoutError):
            await impatient()
        assert (await ask(asked, call))[1] == "exact"
    assert len(scribe.asked) == 1


async def test_the_winner_of_another_replica_is_what_the_loser_returns(
    open_ledger: OpenLedger,
) -> None:
    scribe = Scribe(pause_seconds=0.1)
    async with serving(scribe) as one, serving(Scribe(lambda _, n: {"note": f"other {n}"})) as two:
        slow, fast = open_ledger(one.base_url), open_ledger(two.base_url)
        call = call_of("search_shelf", words="fork")
        answers = await asyncio.gather(ask(slow, call), ask(fast, call))
    assert len({entry.result for entry, _ in answers}) == 1
    assert json.loads(answers[0][0].result) == {"note": "other 1"}


async def test_what_an_answer_is_told(open_ledger: OpenLedger) -> None:
    """A read is told what changed, a change the whole course; neither what others changed."""
    scribe = Scribe()
    read = PastCall("search_shelf", '{"words":"own read"}', '{"note":"seen"}', changed=False)
    lent = PastCall("lend_thing", '{"thing":"own change"}', '{"note":"lent"}', changed=True)
    course = Course(ROOT)
    for past in (read, lent):
        course.add(past)
    async with serving(scribe) as server:
        asked = open_ledger(server.base_url)
        await ask(asked, call_of("lend_thing", thing="foreign change", member="Ivo"))
        await ask(asked, call_of("search_shelf", words="shared read"))
        foreign = replace(call_of("search_shelf", words="foreign read"), versions=("2" * 32,))
        await ask(asked, foreign)
        for new in (
            call_of("thing_status", thing="new"),
            call_of("lend_thing", thing="new", member="Oda"),
        ):
            await ask(asked, course.call(TASK, new.tool, new.arguments))
    told_read, told_change = scribe.of("tool_answer")[-2:]
    for told in (told_read, told_change):
        assert "own change" in told
        assert "shared read" in told
        assert "(before the latest change)" in told
        assert "foreign" not in told
        assert "Oda's bed" not in told  # what only the user knows is not the tools' to tell
    assert "own read" not in told_read
    assert "own read" in told_change


async def test_memory_is_bounded_and_forgets_the_least_recently_used(
    open_ledger: OpenLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.tool_mock.ledger._KEPT_CHARACTERS", 2000)
    async with serving(Scribe()) as server:
        asked = open_ledger(server.base_url)
        calls = [call_of("search_shelf", words=word) for word in ("rake", "fork", "hoe", "pot")]
        keys = [(TASK.task_id, call.tool.name, call.arguments, ROOT) for call in calls]
        for call in calls[:3]:
            await ask(asked, call)
        assert asked.known(keys[0])
        await ask(asked, calls[3])
        assert [asked.known(key) is not None for key in keys] == [True, False, True, True]
        assert (await ask(asked, calls[1]))[1] == "exact"
