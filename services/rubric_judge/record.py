"""An episode as a judge reads it: data, one JSON object a line, never words of our own prompt.

Owns what of an event is shown (what the user and the tools were given; no reasoning) and how a long
log is shortened: every text to the same length, so that nobody can push a short event out by
writing a long one, and always with the number of characters that were left out. A pure function of
the events; `synthagent.llm.quotation` keeps each text in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from pydantic import JsonValue

from synthagent.llm.quotation import fence, quoted
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    EpisodeEnd,
    Event,
    EventBody,
    ToolResult,
    UserReply,
)
from synthagent.worlds.protocol import without_reasoning

MAX_CHARACTERS = 40_000
"""About the text of an episode of 13,000 tokens, the limit of SYNTHAGENT's training runs."""

_TEXT_LIMITS = (4000, 2000, 1000, 500, 240, 120)
"""Characters of one text that are shown, the longest first: the first with which all fits."""

_SPEAKS = {AgentAction.ANSWER: "final_answer", AgentAction.MESSAGE: "message_to_user"}


@dataclass(frozen=True, slots=True)
class Record:
    """A quoted log: its lines, the line that stands before and after them, and what it shows."""

    text: str
    fence: str
    shown: frozenset[int]
    """Sequences of the events that stand in it: what can be evidence."""


def record_of(events: Sequence[Event], max_characters: int = MAX_CHARACTERS) -> Record:
    """The log as lines of JSON, in about `max_characters` at most.

    Where even short texts do not fit, events of the middle are left out, and a line says which.
    """
    lines: list[str] = []
    for limit in _TEXT_LIMITS:
        short = partial(shorten, limit=limit)
        lines = [quoted(_shown(event, short)) for event in events]
        if _length(lines) <= max_characters:
            break
    first, last = _kept(lines, max_characters)
    kept = [*events[:first], *events[last:]]
    if first < last:
        gap = {"left_out": f"events {events[first].sequence} to {events[last - 1].sequence}"}
        lines = [*lines[:first], quoted(dict(gap)), *lines[last:]]
    text = "\n".join(lines)
    return Record(text, fence(text), frozenset(event.sequence for event in kept))


def _length(lines: Iterable[str]) -> int:
    return sum(len(line) + 1 for line in lines)


def _kept(lines: Sequence[str], max_characters: int) -> tuple[int, int]:
    """Ends of the gap: lines[:first] and lines[last:] are kept, equally much of both."""
    if _length(lines) <= max_characters:
        return len(lines), len(lines)
    first, used = 0, 0
    while used + len(lines[first]) < max_characters // 2:
        used += len(lines[first]) + 1
        first += 1
    last, used = len(lines), 0
    while used + len(lines[last - 1]) < max_characters // 2:
        used += len(lines[last - 1]) + 1
        last -= 1
    return first, last


Shorten = Callable[[str], dict[str, JsonValue]]


def shorten(text: str, limit: int) -> dict[str, JsonValue]:
    """The text, or its two ends and the number of characters between them that are left out."""
    if len(text) <= limit:
        return {"text": text}
    head = limit * 2 // 3
    tail = limit - head
    return {
        "text": text[:head],
        "characters_left_out": len(text) - limit,
        "text_goes_on": text[-tail:],
    }


def _shown(event: Event, short: Shorten) -> dict[str, JsonValue]:
    return {"event": event.sequence, **_body(event.body, short)}


def _body(body: EventBody, short: Shorten) -> dict[str, JsonValue]:
    match body:
        case AgentTurn(action=AgentAction.CALL):
            return {
                "by": "agent",
                "what": "tool_call",
                "tool": _compact(short(body.tool)),
                "arguments": _compact(short(body.arguments)),
            }
        case AgentTurn():
            return {"by": "agent", "what": _SPEAKS[body.action], **short(_spoken(body.content))}
        case ToolResult():
            return {
                "by": "tool",
                "succeeded": body.ok,
                "error": _compact(short(body.error_code)),
                "result": _compact(short(body.result)),
            }
        case UserReply():
            return {"by": "user", **short(body.text)}
        case EpisodeEnd():
            return {"by": "system", "what": "end_of_episode", "outcome": body.outcome.value}


def _compact(part: dict[str, JsonValue]) -> JsonValue:
    return part["text"] if len(part) == 1 else part


def _spoken(text: str) -> str:
    """What was said aloud. Repeated, because a block cut out of a block can leave a new one."""
    while (spoken := without_reasoning(text)) != text:
        text = spoken
    return text.strip()
