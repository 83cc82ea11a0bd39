import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from synthagent.worlds.episode import AgentAction
from synthagent.worlds.protocol import answer_turn, call_turn, message_turn, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "action", "tool", "arguments", "content"),
    [
        ("Which day?", "message", "", "", "Which day?"),
        ("", "message", "", "", ""),
        ("<think>call it?</think> Which day? ", "message", "", "", "Which day?"),
        ("<think>never closed <answer>x</answer>", "message", "", "", ""),
        ("opened in the prompt</think><answer> 5 </answer>", "answer", "", "", "5"),
        ("I am done. <answer>Yes.</answer> Bye.", "answer", "", "", "Yes."),
        ("<answer>cut off", "answer", "", "", "cut off"),
        (
            'Let me see.\n<tool_call>{"name": "a", "arguments": {"x": 1}}</tool_call>',
            "call",
            "a",
            '{"x":1}',
            "",
        ),
        (
            '<tool_call>{"name":"a"}</tool_call><tool_call>{"name":"b"}</tool_call>',
            "call",
            "a",
            "{}",
            "",
        ),
        ('<tool_call>{"name": "a"}', "call", "a", "{}", ""),
        (
            '<tool_call>{"name":"a","arguments":"{\\"x\\":1}"}</tool_call>',
            "call",
            "a",
            '{"x":1}',
            "",
        ),
        ('<tool_call>{"name":"a","arguments":[1]}</tool_call>', "call", "a", "[1]", ""),
        ("<tool_call>{oops}</tool_call>", "call", "", "{oops}", ""),
        ('<tool_call>{"tool":"a"}</tool_call>', "call", "", '{"tool":"a"}', ""),
        ("<tool_call></tool_call>", "call", "", "", ""),
        (
            '<tool_call>{"name":"a","arguments":{"id":18446744073709551617}}</tool_call>',
            "call",
            "a",
            '{"id":18446744073709551617}',
            "",
        ),
        ('<answer>a</answer><tool_call>{"name":"a"}</tool_call>', "answer", "", "", "a"),
    ],
)
def test_what_a_text_is_taken_for(
    text: str, action: str, tool: str, arguments: str, content: str
) -> None:
    turn = parse(text)
    assert turn.text == text
    assert (turn.action, turn.tool, turn.arguments, turn.content) == (
        action,
        tool,
        arguments,
        content,
    )


@given(
    tool=st.from_regex(r"[a-z_]{1,10}", fullmatch=True), arguments=st.dictionaries(st.text(), JSON)
)
def test_a_written_call_is_read_as_it_was(tool: str, arguments: dict[str, JsonValue]) -> None:
    turn = call_turn(tool, arguments)
    tags = ("<think>", "</think>", "</tool_call>")
    if not any(tag in turn.text[:-1] for tag in tags[:2]) and turn.text.count(tags[2]) == 1:
        assert parse(turn.text) == turn


@given(text=st.text())
def test_every_text_is_something(text: str) -> None:
    assert parse(text).action is AgentAction.MESSAGE
    assert parse(f"<tool_call>{text}").action is AgentAction.CALL or "<think>" in text


def test_answers_and_messages_are_read_as_they_were() -> None:
    for turn in (answer_turn("Booked as B-1."), message_turn("Which day?")):
        assert parse(turn.text) == turn


@pytest.mark.parametrize("depth", [10, 253, 254, 1000, 100_000])
def test_a_call_of_any_depth_is_a_call(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    raw = f'{{"name":"a","arguments":{{"x":{nested}}}}}'
    turn = parse(f"<tool_call>{raw}</tool_call>")
    assert turn.action is AgentAction.CALL
    assert (turn.tool, turn.arguments) == (("a", f'{{"x":{nested}}}') if depth < 254 else ("", raw))
