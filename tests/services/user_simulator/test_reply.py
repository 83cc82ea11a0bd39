"""The rules of the embedded user, over conversations and over any text."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.user_simulator.reply import UserSimulator, voices
from synthagent.errors import InvalidInput
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    Event,
    EventBody,
    ReplyKind,
    ToolResult,
    UserReply,
)
from synthagent.worlds.matching import contains
from synthagent.worlds.spec import Task
from tests.example_task import example_task
from tests.synthagent.worlds.asking.test_questions import BANK, LAB, TRIP

SIMULATOR = UserSimulator()
TASKS = (example_task(), TRIP, BANK, LAB)


def message(text: str) -> AgentTurn:
    return AgentTurn(text=text, action=AgentAction.MESSAGE, content=text)


def numbered(bodies: Sequence[EventBody]) -> list[Event]:
    return [Event(sequence=index, body=body) for index, body in enumerate(bodies)]


def converse(task: Task, *messages: str) -> list[UserReply]:
    log: list[EventBody] = []
    replies = []
    for text in messages:
        log.append(message(text))
        replies.append(SIMULATOR.reply(task, numbered(log)))
        log.append(replies[-1])
    return replies


def test_facts_come_one_at_a_time_in_the_order_asked() -> None:
    both = "What is the member's name and which day should I book?"
    replies = converse(example_task(), both, both, both)
    assert [reply.revealed for reply in replies] == [("member_name",), ("day",), ("member_name",)]
    assert [reply.reply for reply in replies] == [
        ReplyKind.REVEALED,
        ReplyKind.REVEALED,
        ReplyKind.REPEATED,
    ]
    assert "Tom Achterberg" in replies[0].text
    assert "sunday" not in replies[0].text
    assert "sunday" in replies[1].text


def test_what_the_user_does_not_hold_is_not_invented() -> None:
    (reply,) = converse(example_task(), "What is the member's phone number?")
    assert reply.reply is ReplyKind.UNKNOWN
    assert "I don't know" in reply.text
    assert reply.revealed == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello!",
        "I booked it.",
        "Tell me everything you know.",
        "List all facts",
        "?" * 9,
        "Should I use the tool find_member?",
    ],
)
def test_nothing_asked_gives_a_prompt(text: str) -> None:
    (reply,) = converse(example_task(), text)
    assert reply.reply is ReplyKind.PROMPTED
    assert reply.revealed == ()
    assert reply.text.endswith("?")


def test_reply_is_a_function_of_task_and_events() -> None:
    events = numbered([message("Which day should I book?")])
    assert UserSimulator().reply(example_task(), events) == SIMULATOR.reply(example_task(), events)


@pytest.mark.parametrize("voice", [*voices(), "unheard_of"])
def test_every_voice_keeps_the_rules(voice: str) -> None:
    for task in TASKS:
        persona = task.persona.model_copy(update={"voice": voice})
        spoken = task.model_copy(update={"persona": persona})
        for turn in range(8):
            for text in ("Hello", "What is your shoe size?", *(f.questions[0] for f in task.facts)):
                log = [message("Hi.")] * turn + [message(text)]
                check(spoken, SIMULATOR.reply(spoken, numbered(log)), set())


def check(task: Task, reply: UserReply, revealed: set[str]) -> None:
    """What holds for every reply: one line, one sentence, at most one new fact, and truth."""
    assert len(set(reply.revealed) - revealed) <= 1
    assert "\n" not in reply.text
    assert not re.search(r"[.!?]\s+\S", reply.text)
    assert reply.text[-1] in ".!?"
    assert len(reply.revealed) == (reply.reply in {ReplyKind.REVEALED, ReplyKind.REPEATED})
    for fact in task.facts:
        assert contains(reply.text, fact.value) == (fact.fact_id in reply.revealed), reply
    for tool in task.world.tools:
        assert tool.name not in reply.text


def test_a_template_that_gives_away_another_fact_is_not_used() -> None:
    task = example_task()
    leaking = task.facts[0].model_copy(
        update={"replies": ("On sunday it is {value}.", "It is {value}.")}
    )
    task = task.model_copy(update={"facts": (leaking, task.facts[1])})
    for turn in range(10):
        log = [message("Hi.")] * turn + [message("Which member is the court for?")]
        check(task, SIMULATOR.reply(task, numbered(log)), set())


def test_template_of_two_sentences_falls_back_to_the_value() -> None:
    task = example_task()
    long = task.facts[0].model_copy(update={"replies": ("Well. It is {value}.",)})
    task = task.model_copy(update={"facts": (long, task.facts[1])})
    reply = SIMULATOR.reply(task, numbered([message("Which member is it?")]))
    assert reply.text == "Tom Achterberg."


def test_events_must_end_with_a_message() -> None:
    call = AgentTurn(text="", action=AgentAction.CALL, tool="find_courts", arguments="{}")
    result = ToolResult(ok=True, result="{}", state_hash="0" * 32)
    logs: list[list[EventBody]] = [[], [call], [call, result]]
    for log in logs:
        with pytest.raises(InvalidInput, match="do not end with a message") as caught:
            SIMULATOR.reply(example_task(), numbered(log))
        assert caught.value.field == "events"


def test_a_flood_of_text_is_answered_quickly_and_its_end_is_read() -> None:
    (reply,) = converse(example_task(), "lorem ipsum dolor " * 3000 + "\nWhich day should I book?")
    assert reply.revealed == ("day",)


QUESTIONS = [question for task in TASKS for fact in task.facts for question in fact.questions]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(TASKS),
    st.lists(st.one_of(st.text(max_size=200), st.sampled_from(QUESTIONS)), max_size=6),
)
def test_any_conversation_keeps_the_rules(task: Task, messages: list[str]) -> None:
    revealed: set[str] = set()
    for reply in converse(task, *messages):
        check(task, reply, revealed)
        assert (reply.reply is ReplyKind.REVEALED) == bool(set(reply.revealed) - revealed)
        revealed |= set(reply.revealed)


def test_an_episode_with_a_gap_is_refused() -> None:
    events = numbered([message("Hi."), message("Which day should I book?")])
    with pytest.raises(InvalidInput, match="numbered from 0 without gaps"):
        SIMULATOR.reply(example_task(), events[1:])
