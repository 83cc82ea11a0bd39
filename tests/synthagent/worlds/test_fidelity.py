"""The audit of the simulated user by the engine: each breach is found, and faithful users are not.

The example's user wants a court and holds the member's name and the day.
"""

from __future__ import annotations

import time

import pytest

from services.user_simulator.reply import UserSimulator, voices
from synthagent.worlds.compose import DIFFICULTIES, Composer
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import (
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    EventBody,
    InvalidReason,
    ReplyKind,
    UserReply,
)
from synthagent.worlds.fidelity import infidelity
from synthagent.worlds.protocol import answer_turn, message_turn
from synthagent.worlds.rubric import judge
from synthagent.worlds.spec import Task
from tests.example_task import example_task

WORKFLOW = (
    "Find out which courts of the right kind are open.",
    "Reserve one of them for the person concerned.",
)
BACKGROUND = "The member Tom plays with his daughter Ida at half past nine, as in 2019."
TASK = example_task().model_copy(update={"workflow": WORKFLOW, "background": BACKGROUND})


def reply(text: str, kind: ReplyKind = ReplyKind.PROMPTED, *revealed: str) -> UserReply:
    return UserReply(text=text, reply=kind, revealed=revealed)


def audited(*bodies: EventBody, task: Task = TASK) -> str:
    return infidelity(task, [Event(sequence=n, body=body) for n, body in enumerate(bodies)])


REVEALED, ANSWERED, UNKNOWN = ReplyKind.REVEALED, ReplyKind.ANSWERED, ReplyKind.UNKNOWN
DAY = reply("On sunday.", REVEALED, "day")
NAME = reply("Tom Achterberg.", REVEALED, "member_name")

BREACHES = [
    # leaked hint
    ("Hello!", reply("Try find_member first."), "names the tool find_member"),
    ("Hello!", reply("You could use the search tool."), "speaks of tools"),
    ("Hello!", reply('<tool_call>{"name": "a"}</tool_call>'), "speaks of tools"),
    ("Hello!", reply("Find out which courts of the right kind are open."), "quotes the workflow"),
    # premature stop
    ("I found two courts.", reply("###STOP###"), "ends the episode"),
    ("I found two courts.", reply("STOP"), "ends the episode"),
    ("I found two courts.", reply("Thanks, that's all I need."), "ends the conversation"),
    ("I found two courts.", reply("Goodbye then."), "ends the conversation"),
    ("Which court?", reply("The task is complete."), "ends the conversation"),
    # invented
    ("What time?", reply("At 11 in the morning.", ANSWERED), "'11'"),
    ("Who is the coach?", reply("It is Greta.", ANSWERED), "'Greta'"),
    ("Which date?", reply("I don't know, try the 3rd of May.", UNKNOWN), "'3'"),
    # revealed unasked
    ("Hello!", DAY, "reveals day, which the agent had not asked for"),
    ("I have booked the court.", DAY, "had not asked for"),
    ("Do not tell me the day.", DAY, "had not asked for"),
    ("Please don't tell me which day it is.", DAY, "had not asked for"),
    ("Which day should I book?", NAME, "reveals member_name, which the agent had not asked for"),
    ("Shall I go ahead?", NAME, "had not asked for"),
    # a report that is not true
    ("Which day?", reply("On friday.", REVEALED, "day"), "claims to state day"),
    ("Which day?", reply("On sunday.", ANSWERED), "states day without reporting it"),
]


@pytest.mark.parametrize(("message", "said", "expected"), BREACHES)
def test_a_breach_is_found(message: str, said: UserReply, expected: str) -> None:
    found = audited(message_turn(message), said)
    assert found.startswith("Reply 1 ")
    assert expected in found


def test_a_breach_makes_the_episode_invalid_with_its_reason() -> None:
    bodies = (message_turn("Hello!"), DAY, answer_turn("Done."))
    end = EpisodeEnd(outcome=EpisodeOutcome.ANSWERED)
    events = [Event(sequence=n, body=body) for n, body in enumerate((*bodies, end))]
    verdict = judge(TASK, compile_world(TASK.world), events, "paper")
    assert verdict.reward is None
    assert verdict.invalid_reason is InvalidReason.USER_INFIDELITY
    assert verdict.detail == "Reply 1 reveals day, which the agent had not asked for."


FAITHFUL = [
    ("Which day should I book?", DAY),
    ("When do they play?", reply("Sunday would be great!", REVEALED, "day")),
    ("Could I have a few more details?", NAME),
    ("¿Qué día?", DAY),
    ("Who plays?", NAME),
    ("I found C-11 on Friday, is that fine?", reply("No, sunday please.", REVEALED, "day")),
    ("Don't tell me the name, just the day.", DAY),
    ("Why don't you tell me the day?", DAY),
    ("What time?", reply("At half past nine.", ANSWERED)),
    ("Since when?", reply("Since 2019, I believe.", ANSWERED)),
    ("What is find_member?", reply("I don't know what find_member is.", UNKNOWN)),
    ("Is there anything else?", reply("No, that's all I need, thank you.")),
    ("All done, goodbye!", reply("Bye!")),
    ("I will stop by at the desk.", reply("Please don't stop halfway.")),
    ("Which tool should I use?", reply("I don't know which tool you should use.", UNKNOWN)),
    ("What?", reply("A clay court at the club for one of our members, please.", ANSWERED)),
]


@pytest.mark.parametrize(("message", "said"), FAITHFUL)
def test_a_faithful_reply_is_left_alone(message: str, said: UserReply) -> None:
    assert audited(message_turn(message), said) == ""


def test_a_fact_may_be_given_a_turn_after_it_was_asked_for() -> None:
    both = message_turn("Which day, and for which member?")
    assert audited(both, NAME, message_turn("Thanks."), DAY) == ""


def test_a_flood_is_audited_in_time() -> None:
    exchange = (message_turn("Which day, " + "and what of the club " * 20 + "?"), DAY)
    again = reply("On sunday, as I said.", ReplyKind.REPEATED, "day")
    many = [body for _ in range(4000) for body in (message_turn("Which day?"), again)]
    started = time.perf_counter()
    assert audited(*exchange, *many) == ""
    last = reply("It is at 11 in the morning.", ANSWERED)
    assert "'11'" in audited(*exchange, *many, message_turn("When?"), last)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("level", DIFFICULTIES)
def test_the_embedded_user_is_faithful_on_composed_tasks(level: str) -> None:
    composer, simulator = Composer("train", level), UserSimulator()
    for seed, voice in enumerate(voices()):
        task = composer.task(seed)
        persona = task.persona.model_copy(update={"voice": voice})
        task = task.model_copy(update={"persona": persona})
        events: list[Event] = []
        asked = [question for fact in task.facts for question in fact.questions]
        for message in (*asked, "Hello", "Do not tell me anything.", "What is your shoe size?"):
            events.append(Event(sequence=len(events), body=message_turn(message)))
            answer = simulator.reply(task, events)
            events.append(Event(sequence=len(events), body=answer))
        assert infidelity(task, events) == ""
