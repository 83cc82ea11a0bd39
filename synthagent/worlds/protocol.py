"""The text form in which an agent acts: what it writes, and what that is taken for.

    <tool_call>{"name": "find_member", "arguments": {"name": "Tom"}}</tool_call>
    <answer>Court C-11 is booked.</answer>

Owns `parse` and its inverse. Every text is something: what holds neither tag goes to the user.
Reasoning (`<think>` blocks, words before a tag) stays in `text` and is never part of `content`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson
from pydantic import JsonValue

from synthagent.worlds.episode import AgentAction, AgentTurn
from synthagent.worlds.values import exact_json

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

_THINK = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_ACT = re.compile(
    r"<tool_call>(?P<call>.*?)(?:</tool_call>|\Z)|<answer>(?P<answer>.*?)(?:</answer>|\Z)",
    re.DOTALL,
)


def parse(text: str) -> AgentTurn:
    """What a text is taken for: the first tag decides; a missing closing tag is forgiven.

    A call whose JSON is malformed, or names no tool, is still a call: its raw text becomes the
    arguments, so that the agent reads a tool error.
    """
    spoken = without_reasoning(text)
    act = _ACT.search(spoken)
    if act is None:
        return AgentTurn(text=text, action=AgentAction.MESSAGE, content=spoken.strip())
    if act["answer"] is not None:
        return AgentTurn(text=text, action=AgentAction.ANSWER, content=act["answer"].strip())
    tool, arguments = _call(act["call"].strip())
    return AgentTurn(text=text, action=AgentAction.CALL, tool=tool, arguments=arguments)


def without_reasoning(text: str) -> str:
    """The text without its `<think>` blocks; one that is not closed reaches to the end."""
    spoken = _THINK.sub("", text)
    if "</think>" in spoken:  # templates may open the block in the prompt
        spoken = spoken.rpartition("</think>")[2]
    return spoken


def _call(raw: str) -> tuple[str, str]:
    try:
        call = exact_json(raw)
    except (orjson.JSONDecodeError, RecursionError):
        return "", raw
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return "", raw
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):  # some models write the arguments as JSON in a string
        return call["name"], arguments
    try:
        return call["name"], orjson.dumps(arguments).decode()
    except (
        orjson.JSONEncodeError
    ):  # nested deeper than it writes; the engine takes it for malformed
        return "", raw


def call_turn(tool: str, arguments: Mapping[str, JsonValue]) -> AgentTurn:
    """The turn that calls a tool, in canonical compact JSON."""
    encoded = orjson.dumps(dict(arguments)).decode()
    name = orjson.dumps(tool).decode()
    text = f'{CALL_OPEN}{{"name": {name}, "arguments": {encoded}}}{CALL_CLOSE}'
    return AgentTurn(text=text, action=AgentAction.CALL, tool=tool, arguments=encoded)


def answer_turn(answer: str) -> AgentTurn:
    """The turn that gives the final answer."""
    content = answer.strip()
    text = f"{ANSWER_OPEN}{content}{ANSWER_CLOSE}"
    return AgentTurn(text=text, action=AgentAction.ANSWER, content=content)


def message_turn(message: str) -> AgentTurn:
    """The turn that says something to the user."""
    return AgentTurn(text=message, action=AgentAction.MESSAGE, content=message)
