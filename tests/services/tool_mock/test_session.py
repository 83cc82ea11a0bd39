"""Numbering, limit and replay of sessions."""

import pytest

from services.tool_mock.session import MAX_HISTORY, Sessions
from synthagent.errors import BackendUnavailable, InvalidInput, LimitExceeded, StateDiverged
from synthagent.worlds.engine import compile_world
from tests.example_task import example_task

IMAGE = compile_world(example_task().world)
BOOK = ("book_court", '{"court_id": "C-11", "member_id": "M-502", "day": "sunday"}')
FIND = ("find_courts", '{"court_type": "clay"}')


async def test_a_repeat_of_the_last_call_gets_the_stored_result() -> None:
    async with Sessions(1).open(IMAGE, ()) as session:
        first = session.answer(0, *BOOK)
        booked = session.state_hash
        assert session.answer(0, *BOOK) is first
        assert session.state_hash == booked
        assert session.answer(1, *BOOK).error_code == "court_taken"
        assert session.sequence == 2


@pytest.mark.parametrize("sequence", [0, 1, 4, 2**32 - 1])
async def test_a_gap_is_refused(sequence: int) -> None:
    async with Sessions(1).open(IMAGE, [FIND, FIND]) as session:
        session.answer(2, *FIND)
        state = session.state_hash
        with pytest.raises(InvalidInput, match="out of order; the next number is 3") as caught:
            session.answer(sequence, *BOOK)
        assert caught.value.field == "call.sequence"
        assert session.state_hash == state


async def test_a_repeat_with_other_content_is_refused() -> None:
    async with Sessions(1).open(IMAGE, ()) as session:
        session.answer(0, *FIND)
        with pytest.raises(InvalidInput, match="made before with other content"):
            session.answer(0, *BOOK)


async def test_history_leads_to_the_state_and_its_last_call_may_be_repeated() -> None:
    sessions = Sessions(2)
    async with sessions.open(IMAGE, ()) as first:
        result = first.answer(0, *BOOK)
        async with sessions.open(IMAGE, [BOOK], first.state_hash) as second:
            assert second.state_hash == first.state_hash
            assert second.answer(0, *BOOK) == result


async def test_another_state_than_expected_is_refused() -> None:
    with pytest.raises(StateDiverged, match="incomplete"):
        async with Sessions(1).open(IMAGE, [FIND], "0" * 32):
            pytest.fail("the session opened")


async def test_the_limit_is_of_open_sessions() -> None:
    sessions = Sessions(1)
    async with sessions.open(IMAGE, ()):
        with pytest.raises(LimitExceeded) as caught:
            async with sessions.open(IMAGE, ()):
                pytest.fail("the session opened")
        assert caught.value.retry_after is not None
    async with sessions.open(IMAGE, ()):
        assert sessions.open_count == 1
    assert sessions.open_count == 0


async def test_too_long_a_history_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at most"):
        async with Sessions(1).open(IMAGE, [FIND] * (MAX_HISTORY + 1)):
            pytest.fail("the session opened")


async def test_a_fault_of_the_engine_is_no_result() -> None:
    """A session whose tables are gone stands for any failure of the machinery."""
    async with Sessions(1).open(IMAGE, ()) as session:
        session._session.close()
        with pytest.raises(BackendUnavailable, match="open the session again"):
            session.answer(0, *FIND)
