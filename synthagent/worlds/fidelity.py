"""Whether an episode's log may be judged at all: its order, and what the simulated user did.

Both give the first thing that is wrong as a sentence, or an empty string. The audit of the user is
conservative: it reports only what cannot be a coincidence of words, because a false report would
throw a good episode away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    ReplyKind,
    ToolResult,
    UserReply,
)
from synthagent.worlds.matching import contains
from synthagent.worlds.spec import Fact, Task

_EXPECTED = {
    AgentAction.CALL: ToolResult,
    AgentAction.MESSAGE: UserReply,
    AgentAction.ANSWER: EpisodeEnd,
}
_LIMITS = (EpisodeOutcome.TURN_LIMIT, EpisodeOutcome.TOKEN_LIMIT)
_TOOL_LIKE = re.compile(r"[_.\-0-9]|[a-z][A-Z]")


def disorder(events: Sequence[Event]) -> str:
    """What is wrong with the order of a finished episode's events.

    A limit may cut the agent's last call or message off from its reply.
    """
    if not events or not isinstance(events[-1].body, EpisodeEnd):
        return "The log has no end."
    expected: type = AgentTurn
    for position, event in enumerate(events):
        body = event.body
        if event.sequence != position:
            return f"Event {position} has sequence {event.sequence}."
        if isinstance(body, EpisodeEnd):
            return _bad_end(events, position, expected)
        if not isinstance(body, expected):
            return f"Event {position} is {body.kind}, where {expected.__name__} belongs."
        expected = _EXPECTED[body.action] if isinstance(body, AgentTurn) else AgentTurn
    return ""


def _bad_end(events: Sequence[Event], position: int, expected: type) -> str:
    end = events[position].body
    if position != len(events) - 1:
        return f"Event {position} ends the episode, and events follow."
    if not isinstance(end, EpisodeEnd):
        return ""
    answered = expected is EpisodeEnd
    if answered != (end.outcome is EpisodeOutcome.ANSWERED):
        return f"The outcome is {end.outcome}, and the last turn says otherwise."
    if expected in (ToolResult, UserReply) and end.outcome not in _LIMITS:
        return f"The agent's last turn has no {expected.__name__}."
    return ""


def infidelity(task: Task, events: Sequence[Event]) -> str:
    """What the simulated user did that it must not: reveal unasked, hide a reveal, name a tool."""
    known: set[str] = set()
    facts = {fact.fact_id: fact for fact in task.facts}
    names = [tool.name for tool in task.world.tools if _TOOL_LIKE.search(tool.name)]
    heard = task.instruction
    for event in events:
        body = event.body
        if isinstance(body, AgentTurn):
            heard += f"\n{body.content}"
        elif isinstance(body, UserReply):
            where = f"Reply {event.sequence}"
            if unknown := set(body.revealed) - facts.keys():
                return f"{where} reveals {min(unknown)}, which is no fact of the task."
            new = set(body.revealed) - known
            if reason := _wrong_kind(body, len(new)):
                return f"{where} {reason}."
            for name in names:
                if contains(body.text, name):
                    return f"{where} names the tool {name}."
            known |= new
            if hidden := _hidden_reveal(body.text, facts, known, heard):
                return f"{where} states {hidden} without reporting it."
    return ""


def _wrong_kind(reply: UserReply, new: int) -> str:
    if new > 1:
        return "reveals more than one new fact"
    if new and reply.reply is not ReplyKind.REVEALED:
        return f"is {reply.reply} and reveals a new fact"
    if not new and reply.reply is ReplyKind.REVEALED:
        return "claims to reveal a fact and reveals none"
    return ""


def _hidden_reveal(text: str, facts: dict[str, Fact], known: set[str], heard: str) -> str:
    """A fact not revealed so far whose value stands in the text, and not in what was said before.

    Short values and booleans occur by chance and are not looked for; nor are values that a
    revealed fact, or a label, brings along.
    """
    said = [heard]
    for fact in facts.values():
        said.append(fact.label)
        said.extend(fact.ask_terms)
        if fact.fact_id in known:
            said.append(fact.spoken)
    public = "\n".join(said)
    for fact_id, fact in facts.items():
        distinctive = not isinstance(fact.value, bool) and len(fact.spoken) >= 4
        if fact_id in known or not distinctive:
            continue
        if contains(text, fact.value) and not contains(public, fact.value):
            return fact_id
    return ""
