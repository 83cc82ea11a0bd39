"""Numbering, limit and replay of sessions of worlds that the engine answers for alone."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from services.tool_mock.session import MAX_HISTORY, Sessions, ToolSession
from synthagent.errors import BackendUnavailable, InvalidInput, LimitExceeded, StateDiverged
from synthagent.worlds.engine import compile_world
from tests.example_task import example_task
from tests.services.tool_mock.conftest import OpenLedger

TASK = example_task()
IMAGE = compile_world(TASK.world)
BOOK = ("book_court", '{"court_id": "C-11", "member_id": "M-502", "day": "sunday"}')
FIND = ("find_courts", '{"court_type": "clay"}')
OpenSession = Callable[..., AbstractAsyncContextManager[ToolSession]]


@pytest.fixture
def open_session(sessions: Sessions) -> OpenSession:
    """Opens sessions of the example task; two may be open."""

    @asynccontextmanager
    async def open_one(
        history: Sequence[tuple[str, str]] = (), expected: str = ""
    ) -> AsyncIterator[ToolSession]:
        async with sessions.open(TASK, IMAGE, history, expected) as session:
            assert isinstance(session, ToolSession)
            yield session

    return open_one


@pytest.fixture
def sessions(open_ledger: OpenLedger) -> Sessions:
    return Sessions(2, open_ledger())


async def test_a_repeat_of_the_last_call_gets_the_stored_result(open_session: OpenSession) -> None:
    async with open_session() as session:
        first = session.answer(0, *BOOK)
        booked = session.state_hash
        assert session.answer(0, *BOOK) is first
        assert session.state_hash == booked
        assert session.answer(1, *BOOK).error_code == "court_taken"
        assert session.sequence == 2


@pytest.mark.parametrize("sequence", [0, 1, 4, 2**32 - 1])
async def test_a_gap_is_refused(open_session: OpenSession, sequence: int) -> None:
    async with open_session([FIND, FIND]) as session:
        session.answer(2, *FIND)
        state = session.state_hash
        with pytest.raises(InvalidInput, match="out of order; the next number is 3") as caught:
            session.answer(sequence, *BOOK)
        assert caught.value.field == "call.sequence"
        assert session.state_hash == state


async def test_a_repeat_with_other_content_is_refused(open_session: OpenSession) -> None:
    async with open_session() as session:
        session.answer(0, *FIND)
        with pytest.raises(InvalidInput, match="made before with other content"):
            session.answer(0, *BOOK)


async def test_history_leads_to_the_state_and_its_last_call_may_be_repeated(
    open_session: OpenSession,
) -> None:
    async with open_session() as first:
        result = first.answer(0, *BOOK)
        async with open_session([BOOK], first.state_hash) as second:
            assert second.state_hash == first.state_hash
            assert second.answer(0, *BOOK) == result


async def test_another_state_than_expected_is_refused(open_session: OpenSession) -> None:
    with pytest.raises(StateDiverged, match="incomplete"):
        async with open_session([FIND], "0" * 32):
            pytest.fail("the session opened")


async def test_the_limit_is_of_open_sessions(sessions: Sessions, open_session: OpenSession) -> None:
    async with open_session(), open_session():
        with pytest.raises(LimitExceeded) as caught:
            async with open_session():
                pytest.fail("the session opened")
        assert caught.value.retry_after is not None
    async with open_session():
        assert sessions.open_count == 1
    assert sessions.open_count == 0


async def test_too_long_a_history_is_refused(open_session: OpenSession) -> None:
    with pytest.raises(InvalidInput, match="at most"):
        async with open_session([FIND] * (MAX_HISTORY + 1)):
            pytest.fail("the session opened")


async def test_a_fault_of_the_engine_is_no_result(open_session: OpenSession) -> None:
    """A session whose tables are gone stands for any failure of the machinery."""
    async with open_session() as session:
        session._session.close()
        with pytest.raises(BackendUnavailable, match="open the session again"):
            session.answer(0, *FIND)
