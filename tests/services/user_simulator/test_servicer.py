"""UserSimulator at a real server."""

from collections.abc import AsyncIterator, Callable

import pytest

from services.user_simulator.servicer import register
from synthagent.errors import InvalidInput, NotFound, RequestIdReused, Uncertified
from synthagent.server import Running, running
from synthagent.settings import Settings
from synthagent.worlds.episode import AgentAction, AgentTurn, Event, ReplyKind

TASK_ID = "example-court-booking"


@pytest.fixture
async def server(make_settings: Callable[..., Settings]) -> AsyncIterator[Running]:
    async with running(make_settings(max_events=4), [register]) as opened:
        yield opened


def said(text: str, sequence: int = 0) -> Event:
    turn = AgentTurn(text=text, action=AgentAction.MESSAGE, content=text)
    return Event(sequence=sequence, body=turn)


async def test_a_question_is_answered_and_counted(server: Running) -> None:
    client = server.resources.client
    reply = await client.reply("one", TASK_ID, [said("When do they want to play?")])
    assert (reply.reply, reply.revealed) == (ReplyKind.REVEALED, ("day",))
    event = Event(sequence=1, body=reply)
    again = await client.reply("two", TASK_ID, [said("When?"), event, said("Which day?", 2)])
    assert (again.reply, again.revealed) == (ReplyKind.REPEATED, ("day",))
    count = server.resources.metrics.registry.get_sample_value
    assert count("synthagent_user_replies_total", {"kind": "revealed"}) == 1


async def test_a_repeat_is_answered_from_the_store(server: Running) -> None:
    client = server.resources.client
    first = await client.reply("same", TASK_ID, [said("Who is it for?")])
    assert await client.reply("same", TASK_ID, [said("Who is it for?")]) == first
    count = server.resources.metrics.registry.get_sample_value
    assert count("synthagent_user_replies_total", {"kind": "revealed"}) == 1
    with pytest.raises(RequestIdReused):
        await client.reply("same", TASK_ID, [said("Which day?")])


async def test_refusals(server: Running) -> None:
    client = server.resources.client
    with pytest.raises(NotFound):
        await client.reply("a", "nobody-knows", [said("Hi")])
    with pytest.raises(Uncertified):
        await client.reply("b", "uncertified", [said("Hi")])
    with pytest.raises(InvalidInput, match="do not end with a message") as caught:
        await client.reply("c", TASK_ID, [])
    assert caught.value.field == "events"
    with pytest.raises(InvalidInput, match="at most 4"):
        await client.reply("d", TASK_ID, [said("Hi", n) for n in range(5)])
    with pytest.raises(InvalidInput, match="request_id"):
        await client.reply("", TASK_ID, [said("Hi")])
