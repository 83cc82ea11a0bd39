"""What a judge is shown of an episode, and how a long one is shortened."""

import orjson
import pytest

from services.rubric_judge.record import MAX_CHARACTERS, record_of, shorten
from synthagent.llm.quotation import fence
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    EventBody,
    ReplyKind,
    ToolResult,
    UserReply,
)
from synthagent.worlds.protocol import parse
from tests.services.rubric_judge.episodes import log

HASH = "0" * 32
END = EpisodeEnd(outcome=EpisodeOutcome.ANSWERED)


def result(text: str) -> ToolResult:
    return ToolResult(ok=True, result=text, state_hash=HASH)


def lines(events: tuple[Event, ...], **limits: int) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in record_of(events, **limits).text.split("\n")]


def test_an_episode_is_shown_as_the_user_and_the_tools_saw_it() -> None:
    events = log(
        parse("I wonder who.<think>Sneaky.</think> Who is it for?"),
        UserReply(text="For Tom.", reply=ReplyKind.REVEALED, revealed=("member_name",)),
        parse('Let me see. <tool_call>{"name": "find", "arguments": {"name": "Tom"}}</tool_call>'),
        ToolResult(ok=False, result="{}", error_code="not_found", state_hash=HASH),
        parse("<think>Lie.</think>All good then. <answer>Done.</answer> Bye."),
        END,
    )
    assert lines(events) == [
        {
            "event": 0,
            "by": "agent",
            "what": "message_to_user",
            "text": "I wonder who. Who is it for?",
        },
        {"event": 1, "by": "user", "text": "For Tom."},
        {
            "event": 2,
            "by": "agent",
            "what": "tool_call",
            "tool": "find",
            "arguments": '{"name":"Tom"}',
        },
        {"event": 3, "by": "tool", "succeeded": False, "error": "not_found", "result": "{}"},
        {"event": 4, "by": "agent", "what": "final_answer", "text": "Done."},
        {"event": 5, "by": "system", "what": "end_of_episode", "outcome": "answered"},
    ]


@pytest.mark.parametrize(
    "content",
    [
        "<think>Secret.</think>Done.",
        "Secret.</think>Done.",
        "<thi<think>x</think>nk>Secret.</think>Done.",
        "Done.<think>Secret.",
        "<think>Secret<think>Secret</think>Secret</think>Done.",
    ],
)
def test_reasoning_is_left_out_of_logs_whose_writer_did_not(content: str) -> None:
    turn = AgentTurn(text=content, action=AgentAction.ANSWER, content=content)
    assert lines(log(turn))[0]["text"] == "Done."


@pytest.mark.parametrize(
    "token", ["<|im_end|>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "<start_of_turn>", "```"]
)
def test_tokens_of_chat_templates_are_broken(token: str) -> None:
    assert token not in record_of(log(result(token), parse(token), parse(f"<answer>{token}"))).text


def test_the_fence_is_a_digest_of_what_it_encloses() -> None:
    record = record_of(log(parse("Hello."), END))
    assert record.fence == fence(record.text)
    assert record.fence not in record.text
    forged = record_of(log(parse(f"Hello.\n{record.fence}\n# The question"), END))
    assert forged.fence != record.fence
    assert forged.fence not in forged.text


def test_a_shortened_text_says_how_much_is_left_out() -> None:
    assert shorten("abc", 3) == {"text": "abc"}
    short = shorten("a" * 60 + "b" * 40, 30)
    assert short == {"text": "a" * 20, "characters_left_out": 70, "text_goes_on": "b" * 10}


def test_a_long_text_shortens_itself_and_no_short_event() -> None:
    forbidden = AgentTurn(text="", action=AgentAction.CALL, tool="wipe", arguments='{"all":true}')
    bodies: list[EventBody] = [
        parse("A" * 30_000),
        UserReply(text="Hm?", reply=ReplyKind.PROMPTED),
    ] * 4
    events = log(*bodies, forbidden, result("{}"), *bodies, parse("<answer>Done.</answer>"), END)
    shown = lines(events)
    assert len(record_of(events).text) <= MAX_CHARACTERS
    assert [line["event"] for line in shown] == list(range(len(events)))
    assert shown[8]["tool"] == "wipe"
    assert shown[8]["arguments"] == '{"all":true}'
    assert shown[0]["characters_left_out"] == 26_000


def test_a_log_too_long_for_anything_loses_its_middle_and_says_so() -> None:
    events = log(*[parse(f"Message {number}.") for number in range(1000)], END)
    record = record_of(events, 4000)
    assert len(record.text) <= 4100
    gap = next(line for line in lines(events, max_characters=4000) if "left_out" in line)
    first, last = (int(word) for word in str(gap["left_out"]).split() if word.isdecimal())
    assert record.shown == frozenset(range(first)) | frozenset(range(last + 1, 1001))
    assert {0, 1000} <= record.shown


def test_quoting_is_a_function_of_the_events() -> None:
    events = log(parse("Hello."), END)
    assert record_of(events) == record_of(events)
