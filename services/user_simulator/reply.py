"""What the user of a task says next.

Owns the rules of the embedded user: it answers only what is asked, in one sentence, at most one new
fact at a time; it repeats what is asked again, says that it does not know what it does not hold,
and asks what is needed where nothing was asked. It never names a tool. Stateless: a reply is a
function of the task and the events alone.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from synthagent.errors import InvalidInput
from synthagent.worlds.asking.language import lexicon
from synthagent.worlds.asking.questions import matcher_of
from synthagent.worlds.episode import AgentAction, AgentTurn, Event, ReplyKind, UserReply
from synthagent.worlds.matching import contains
from synthagent.worlds.spec import Fact, Task
from synthagent.worlds.values import Scalar

_PLAIN = "plain"
_TOOL_LIKE = re.compile(r"[_.\-0-9]|[a-z][A-Z]")
"""A name that cannot be an ordinary word."""

_SENTENCE_END = re.compile(r"[.!?](?=\s+\S)")


@dataclass(frozen=True, slots=True)
class Voice:
    """A way of speaking: text around the sentence that gives a fact, and the other sentences."""

    openings: tuple[str, ...]
    closings: tuple[str, ...]
    unknown: tuple[str, ...]
    prompted: tuple[str, ...]


@cache
def voices() -> dict[str, Voice]:
    """The voices of `voices.toml` by name."""
    data = tomllib.loads(Path(__file__).with_name("voices.toml").read_text(encoding="utf-8"))
    return {
        name: Voice(**{part: tuple(texts) for part, texts in parts.items()})
        for name, parts in data.items()
    }


class UserSimulator:
    """The users of all tasks. Holds nothing."""

    def reply(self, task: Task, events: Sequence[Event]) -> UserReply:
        """The user's reply to the agent's message that ends `events`.

        Raises InvalidInput where the events do not end with a message of the agent.
        """
        message, sequence = last_message(events)
        known = {fact.fact_id for fact in task.facts}
        revealed = {
            fact_id
            for event in events
            if isinstance(event.body, UserReply)
            for fact_id in event.body.revealed
            if fact_id in known
        }
        asked = matcher_of(task).wanted(message, revealed)
        held = [wanted.fact_id for wanted in asked if wanted.fact_id is not None]
        draw = _Draw(task.task_id, sequence)
        fresh = next((fact_id for fact_id in held if fact_id not in revealed), None)
        if fresh is not None:
            return self._give(task, task.fact(fresh), ReplyKind.REVEALED, draw)
        if not asked:
            return _say(task, ReplyKind.PROMPTED, draw)
        if asked[0].fact_id is None:
            return _say(task, ReplyKind.UNKNOWN, draw)
        return self._give(task, task.fact(asked[0].fact_id), ReplyKind.REPEATED, draw)

    def _give(self, task: Task, fact: Fact, kind: ReplyKind, draw: _Draw) -> UserReply:
        """A sentence that states the fact and no other."""
        value = " ".join(fact.spoken.split())
        others = [other.value for other in task.facts if other.fact_id != fact.fact_id]
        for voice in (_voice(task), voices()[_PLAIN]):
            for template, opening, closing in draw.combinations(fact.replies, voice):
                frame = _compose(template, opening, closing)
                if not _says_any(frame.replace("{value}", " "), others, task):
                    return UserReply(
                        text=frame.replace("{value}", value), reply=kind, revealed=(fact.fact_id,)
                    )
        text = value if value.endswith((".", "!", "?")) else f"{value}."
        return UserReply(text=text, reply=kind, revealed=(fact.fact_id,))


class _Draw:
    """Choices that follow from the task and the position in the episode alone."""

    def __init__(self, task_id: str, sequence: int) -> None:
        self._key = f"{task_id}:{sequence}"

    def rotate(self, options: Sequence[str], purpose: str) -> Sequence[str]:
        """The options, beginning with the drawn one."""
        digest = hashlib.blake2b(f"{self._key}:{purpose}".encode(), digest_size=8).digest()
        start = int.from_bytes(digest, "big") % len(options)
        return (*options[start:], *options[:start])

    def combinations(self, replies: Sequence[str], voice: Voice) -> Iterator[tuple[str, str, str]]:
        """Template, opening and closing, the drawn ones first; templates of one sentence only."""
        single = [reply for reply in map(_single_line, replies) if not _SENTENCE_END.search(reply)]
        for template in self.rotate(single, "template") if single else ():
            for opening in self.rotate(voice.openings, "opening"):
                for closing in self.rotate(voice.closings, "closing"):
                    yield template, opening, closing


def last_message(events: Sequence[Event]) -> tuple[str, int]:
    """What the agent said last, and at which position. Raises InvalidInput."""
    for position, event in enumerate(events):
        if event.sequence != position:
            raise InvalidInput(
                f"Event {position} has the sequence {event.sequence}; send the whole episode, "
                "numbered from 0 without gaps.",
                field=f"events[{position}].sequence",
            )
    if events:
        turn = events[-1].body
        if isinstance(turn, AgentTurn) and turn.action is AgentAction.MESSAGE:
            return turn.content, events[-1].sequence
    raise InvalidInput(
        "The events do not end with a message of the agent; send the episode up to and with the "
        "message that the user shall answer.",
        field="events",
    )


def _say(task: Task, kind: ReplyKind, draw: _Draw) -> UserReply:
    """A sentence of the voice that states no fact."""
    values = [fact.value for fact in task.facts]
    for voice in (_voice(task), *voices().values()):
        options = voice.unknown if kind is ReplyKind.UNKNOWN else voice.prompted
        for text in draw.rotate(options, kind.value):
            if not _says_any(text, values, task):
                return UserReply(text=text, reply=kind)
    return UserReply(text="I don't know." if kind is ReplyKind.UNKNOWN else "Yes?", reply=kind)


def _voice(task: Task) -> Voice:
    return voices().get(task.persona.voice, voices()[_PLAIN])


def _single_line(text: str) -> str:
    return " ".join(text.split())


def _compose(template: str, opening: str, closing: str) -> str:
    """The template in its voice, still one sentence."""
    if opening and template.split(" ", 1)[0].lower() in lexicon().words["lowered"]:
        template = template[0].lower() + template[1:]
    end = template[-1] if template[-1] in ".!?" else ""
    body = template[: len(template) - len(end)]
    if "," in body.rpartition("{value}")[2]:
        closing = ""  # the template closes in its own way: ", please"
    return f"{opening}{body}{closing}{end or '.'}"


def _says_any(text: str, values: Sequence[Scalar], task: Task) -> bool:
    """Whether the text states one of the values, or names a tool."""
    names = [tool.name for tool in task.world.tools if _TOOL_LIKE.search(tool.name)]
    return any(contains(text, value) for value in (*values, *names))
