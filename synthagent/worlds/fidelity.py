"""Whether an episode's log may be judged at all: its order, and what the simulated user did.

Both give the first thing that is wrong as a sentence, or an empty string. The audit of the user is
conservative: it reports only what cannot be a coincidence of words, because a false report would
throw a good episode away. A user that a model plays is held to the same rules, and to stricter ones
where a doubt is cheap, before each reply leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from synthagent.worlds.asking.questions import matcher_of
from synthagent.worlds.asking.readings import could_ask
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
from synthagent.worlds.inventions import invented
from synthagent.worlds.matching import canonical, contains
from synthagent.worlds.spec import Task
from synthagent.worlds.values import Scalar

_EXPECTED = {
    AgentAction.CALL: ToolResult,
    AgentAction.MESSAGE: UserReply,
    AgentAction.ANSWER: EpisodeEnd,
}
_LIMITS = (EpisodeOutcome.TURN_LIMIT, EpisodeOutcome.TOKEN_LIMIT)
_TOOL_LIKE = re.compile(r"[_. \-0-9]|[a-z][A-Z]")
_WORDS = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_USING = r"(?:call|use|using|invoke|run|try|via|through)"
_CALLING = re.compile(
    rf"<tool_call>|<answer>|\b{_USING}\b[^.?!]{{0,40}}\b(?:tool|function|api|endpoint)s?\b",
    re.IGNORECASE,
)
_MARKER = re.compile(
    r"##+\s*(?:stop|done|end|finish(?:ed)?|transfer|exit)|<\s*/?\s*(?:stop|done|end|exit)\s*/?>"
    r"|\A\W*(?:stop|done|finished|the end|terminate|exit|quit)\W*\Z",
    re.IGNORECASE,
)
_ENDING = re.compile(
    r"\b(?:good)?bye\b(?!-)|\bthat(?:'s| is| was| will be) all (?:i|we) (?:need|want|have)"
    r"|\b(?:we|i)(?:'re| are|'m| am) (?:all )?(?:done|finished) here\b"
    r"|\b(?:end|close|stop|finish) (?:the|this|our) (?:conversation|chat|session|dialogue|call)\b"
    r"|\b(?:the|my|this) (?:task|request|job) (?:is|has been) (?:now )?(?:complete|done|finished)\b"
    r"|\bno (?:further|more) (?:help|assistance|action) (?:is )?(?:needed|required|necessary)\b",
    re.IGNORECASE,
)
_PARTING = re.compile(
    r"\b(?:anything|something) (?:else|more)\b|\bis that all\b|\bfurther\b|\b(?:good)?bye\b"
    r"|\b(?:all )?(?:done|finished|complete[d]?)\b",
    re.IGNORECASE,
)
_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_RUN = 5
"""Words in a row that a sentence shares with the workflow by more than chance."""


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


@dataclass
class Said:
    """What an episode has brought to the user's ears and out of its mouth so far."""

    task: Task
    agent: list[str] = field(default_factory=list)
    revealed: set[str] = field(default_factory=set)

    @property
    def message(self) -> str:
        """What the agent said last."""
        return self.agent[-1] if self.agent else ""

    def public(self, value: Scalar) -> bool:
        """Whether the user may say a value without telling it: it wished for it, or heard it."""
        return any(contains(text, value) for text in (self.task.instruction, *reversed(self.agent)))

    @property
    def sources(self) -> list[str]:
        """Everything that a value in a reply may come from, the most likely first."""
        return [self.held, *reversed(self.agent)]

    @cached_property
    def held(self) -> str:
        """All that the user was given: its wish, background, self and facts."""
        task = self.task
        persona = task.persona
        parts = [task.instruction, task.background, persona.name, persona.role, persona.description]
        for fact in task.facts:
            parts += (fact.label, fact.spoken, *fact.ask_terms, *fact.questions, *fact.replies)
        return "\n".join(parts)


def infidelity(task: Task, events: Sequence[Event]) -> str:
    """What the simulated user did that it must not, as far as the engine can tell.

    Looked for in each reply: a wrong report of what it reveals, a leaked hint (a tool's name, a
    phrase of the workflow), an end that is not the user's to set, a fact that no message had asked
    for, a value from nowhere.
    """
    said = Said(task)
    for event in events:
        if isinstance(event.body, UserReply) and (reason := fault(said, event.body)):
            return f"Reply {event.sequence} {reason}."
        _note(said, event)
    return ""


def listen(task: Task, events: Sequence[Event]) -> Said:
    """What a log has brought to the user's ears and out of its mouth."""
    said = Said(task)
    for event in events:
        _note(said, event)
    return said


def _note(said: Said, event: Event) -> None:
    body = event.body
    if isinstance(body, AgentTurn) and body.action is AgentAction.MESSAGE:
        said.agent.append(body.content)
    elif isinstance(body, UserReply):
        said.revealed.update(body.revealed)


def fault(said: Said, reply: UserReply, *, strict: bool = False) -> str:
    """What is wrong with a reply after what was said, as "names the tool x"; "" where nothing is.

    `strict` for replies that can still be mended: what may be a coincidence counts, too.
    """
    new = set(reply.revealed) - said.revealed
    return (
        _wrong_report(said, reply, new)
        or hint(said, reply.text, strict=strict)
        or _early_end(said, reply.text)
        or _unasked(said, new)
        or _invention(said, reply, strict=strict)
    )


def _wrong_report(said: Said, reply: UserReply, new: set[str]) -> str:
    facts = {fact.fact_id: fact for fact in said.task.facts}
    if unknown := set(reply.revealed) - facts.keys():
        return f"reveals {min(unknown)}, which is no fact of the task"
    if reason := _wrong_kind(reply, len(new)):
        return reason
    for fact_id in reply.revealed:
        value = facts[fact_id].value
        if not isinstance(value, bool) and not contains(reply.text, value):
            return f"claims to state {fact_id} and does not"
    if hidden := _hidden_reveal(said, reply.text, said.revealed | new):
        return f"states {hidden} without reporting it"
    return ""


def _wrong_kind(reply: UserReply, new: int) -> str:
    if new > 1:
        return "reveals more than one new fact"
    if new and reply.reply is not ReplyKind.REVEALED:
        return f"is {reply.reply} and reveals a new fact"
    if not new and reply.reply is ReplyKind.REVEALED:
        return "claims to reveal a fact and reveals none"
    return ""


def _hidden_reveal(said: Said, text: str, known: set[str]) -> str:
    """A fact not revealed so far whose value stands in the text, and not in what was said before.

    Short values and booleans occur by chance and are not looked for; nor are values that a
    revealed fact, or a label, brings along.
    """
    facts = said.task.facts
    for fact in facts:
        distinctive = not isinstance(fact.value, bool) and len(fact.spoken) >= 4
        if fact.fact_id in known or not distinctive or not contains(text, fact.value):
            continue
        brought = [text for other in facts for text in (other.label, *other.ask_terms)]
        brought += [other.spoken for other in facts if other.fact_id in known]
        if not said.public(fact.value) and not any(contains(one, fact.value) for one in brought):
            return fact.fact_id
    return ""


def hint(said: Said, text: str, *, strict: bool = False) -> str:
    """What in a text hints at tools or solution; what the agent itself said is none, by default."""
    for tool in said.task.world.tools:
        if _names(tool.name, text, strict=strict) and not _heard(said, tool.name, strict=strict):
            return f"names the tool {tool.name}"
    found = _CALLING.search(text)
    word = found[0].split()[-1].strip("<>") if found else ""
    if found and not any(contains(text, word) for text in said.sources):
        return f"speaks of tools ({found[0]!r})"
    spoken = _runs(text) if said.task.workflow else set()
    for goal in said.task.workflow:
        shared = _runs(goal) & spoken
        if shared := shared and shared.difference(*map(_runs, said.sources)):
            return f"quotes the workflow ({' '.join(min(shared))!r})"
    return ""


def _names(tool: str, text: str, *, strict: bool) -> bool:
    """Whether a text names a tool: as it is written, or in plain words where it is to be used."""
    if _TOOL_LIKE.search(tool) and contains(text, tool):
        return True
    plain = " ".join(_WORDS.findall(_CAMEL.sub(" ", tool)))
    used = rf"\b{_USING}\s+(?:the\s+)?{re.escape(plain)}\b"
    return strict and re.search(used, text, re.IGNORECASE) is not None


def _heard(said: Said, tool: str, *, strict: bool) -> bool:
    """Whether a name is one that the user may use: words of its own, or the agent's."""
    if " " in tool:  # "Bus Finder"
        return any(contains(text, tool) for text in said.sources)
    return not strict and (said.public(tool) or contains(said.task.background, tool))


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", canonical(text))
    return {tuple(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1)}


def _early_end(said: Said, text: str) -> str:
    """An end that the user sets while the agent is at work; the agent alone ends an episode."""
    if found := _MARKER.search(text):
        return f"ends the episode ({found[0].strip()!r}) before the agent has answered"
    found = _ENDING.search(text)
    if found and not _PARTING.search(said.message):
        return f"ends the conversation ({found[0]!r}) before the agent has finished"
    return ""


def _unasked(said: Said, new: Iterable[str]) -> str:
    for fact_id in sorted(new):
        matcher = matcher_of(said.task)
        if not any(could_ask(matcher, message, fact_id) for message in reversed(said.agent)):
            return f"reveals {fact_id}, which the agent had not asked for"
    return ""


def _invention(said: Said, reply: UserReply, *, strict: bool) -> str:
    """A value from nowhere. Questions state nothing; only `strict` looks at what they name."""
    sentences = _SENTENCES.split(reply.text)
    stated = [part for part in sentences if strict or not part.rstrip().endswith("?")]
    informs = reply.reply in (ReplyKind.REVEALED, ReplyKind.ANSWERED)
    value = invented(" ".join(stated), said.sources, strict=strict or informs)
    return f"states {value!r}, which it has from nowhere" if value else ""
