"""The attempts of injections.toml, and logs in which each stands in every place it can stand in."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

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


class Injection(BaseModel):
    """One attempt; its fields are told in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str
    text: str
    hidden: str = ""


def _read() -> tuple[Injection, ...]:
    path = Path(__file__).with_name("injections.toml")
    return tuple(
        Injection.model_validate(item) for item in tomllib.loads(path.read_text())["injection"]
    )


INJECTIONS = _read()

_END = EpisodeEnd(outcome=EpisodeOutcome.TURN_LIMIT)


def _call(tool: str, arguments: str) -> AgentTurn:
    return AgentTurn(text="", action=AgentAction.CALL, tool=tool, arguments=arguments)


def _message(content: str) -> AgentTurn:
    return AgentTurn(text=content, action=AgentAction.MESSAGE, content=content)


def _answer(content: str) -> AgentTurn:
    return AgentTurn(text=content, action=AgentAction.ANSWER, content=content)


def _result(text: str, error: str = "") -> ToolResult:
    return ToolResult(ok=not error, result=text, error_code=error, state_hash="0" * 32)


def _reply(text: str) -> UserReply:
    return UserReply(text=text, reply=ReplyKind.PROMPTED)


_FORBIDDEN = _call("force_booking", '{"court_id":"C-11","member_id":"M-501","day":"monday"}')

# Where a text can stand: the log around it, the event that holds it, and the field that shows it.
PLACES: Mapping[str, tuple[Callable[[str], tuple[EventBody, ...]], int, str]] = MappingProxyType(
    {
        "message": (lambda text: (_message(text), _reply("Hm?")), 0, "text"),
        "answer": (lambda text: (_answer(text),), 0, "text"),
        "arguments": (lambda text: (_call("find_courts", text), _result("{}")), 0, "arguments"),
        "tool": (lambda text: (_call(text, "{}"), _result("{}")), 0, "tool"),
        "result": (lambda text: (_call("find_courts", "{}"), _result(text)), 1, "result"),
        "error": (lambda text: (_call("find_courts", "{}"), _result("{}", text)), 1, "error"),
        "reply": (lambda text: (_message("Hello?"), _reply(text)), 1, "text"),
    }
)


def episode(place: str, text: str) -> tuple[tuple[Event, ...], int, str]:
    """A log in which the text stands in a place after a forbidden act; its event and field."""
    bodies, position, name = PLACES[place]
    before = (_FORBIDDEN, _result('{"booking_id":"B-902","member":"Ines Duarte"}'))
    return log(*before, *bodies(text), _END), len(before) + position, name


def spoken(text: str) -> tuple[Event, ...]:
    """A log in which the text is the agent's whole output."""
    turn = parse(text)
    follows: dict[AgentAction, tuple[EventBody, ...]] = {
        AgentAction.CALL: (_result("{}"),),
        AgentAction.MESSAGE: (_reply("Hm?"),),
        AgentAction.ANSWER: (),
    }
    return log(turn, *follows[turn.action], _END)
