"""What a model says for the user, and what makes it a reply that may be sent.

The model reports which facts its sentence states; the engine decides. A value that stands in the
sentence counts as stated, reported or not. Everything that the audit of an episode would object to,
and what may be a coincidence there, is refused here, while it can still be mended.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from synthagent.worlds.asking.language import lexicon, read_words, stem
from synthagent.worlds.asking.questions import matcher_of
from synthagent.worlds.episode import ReplyKind, UserReply
from synthagent.worlds.fidelity import Said, fault
from synthagent.worlds.matching import canonical, contains
from synthagent.worlds.spec import Fact
from synthagent.worlds.values import Name

MAX_SENTENCES = 2
MAX_CHARACTERS = 400
"""Of a reply, beyond the values that it states."""

_SHORT = 4
"""Characters below which a value may stand in a sentence for another reason."""

_SENTENCE_END = re.compile(r"(?<!\b[A-Z])(?<!\b(?:Mr|Ms|Dr|St|No))(?<!\bMrs)[.!?]+(?=\s+[^\sa-z])")
_QUOTES = ('"', "\u201c", "\u201d")


class Basis(StrEnum):
    """What a reply rests on."""

    FACT = "fact"
    BACKGROUND = "background"
    UNKNOWN = "unknown"
    QUESTION = "question"


class Spoken(BaseModel):
    """The model's answer, as it is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Basis
    # Bounds that guided decoding keeps, so that a weak model comes to an end.
    facts: list[Name] = Field(max_length=4)
    quote: str = Field(max_length=300)
    text: str = Field(min_length=1, max_length=600)


class SpokenWithoutFacts(Spoken):
    """The answer of a user who holds no facts: it can report none."""

    kind: Literal[Basis.BACKGROUND, Basis.UNKNOWN, Basis.QUESTION]
    facts: list[Name] = Field(max_length=0)


_KINDS = {
    Basis.UNKNOWN: ReplyKind.UNKNOWN,
    Basis.QUESTION: ReplyKind.PROMPTED,
    Basis.BACKGROUND: ReplyKind.ANSWERED,
}


class UnfitReply(ValueError):
    """An answer that may not be sent; the text says why, as the end of "That reply ..."."""


def to_reply(said: Said, spoken: Spoken) -> UserReply:
    """The reply that an answer makes after what was said. Raises UnfitReply."""
    text = " ".join(spoken.text.split()).strip("".join(_QUOTES)).strip()
    if not text:
        raise UnfitReply("it says nothing")
    stated = _stated(said, spoken, text)
    new = [fact.fact_id for fact in stated if fact.fact_id not in said.revealed]
    if new:
        kind = ReplyKind.REVEALED
    elif stated:
        kind = ReplyKind.REPEATED
    elif spoken.kind in _KINDS:
        kind = _KINDS[spoken.kind]
    else:
        raise UnfitReply('its kind is "fact", and it states none of your facts')
    reply = UserReply(text=text, reply=kind, revealed=tuple(fact.fact_id for fact in stated))
    if problem := fault(said, reply, strict=True):
        raise UnfitReply(f"it {problem}")
    _check_form(text, stated)
    if kind is ReplyKind.ANSWERED:
        _check_quote(said, spoken.quote)
    if kind is ReplyKind.UNKNOWN:
        _check_ignorance(said)
    return reply


def _stated(said: Said, spoken: Spoken, text: str) -> list[Fact]:
    """The facts whose value the text states, in the task's order."""
    facts = {fact.fact_id: fact for fact in said.task.facts}
    reported = []
    for fact_id in dict.fromkeys(spoken.facts):
        fact = facts.get(fact_id)
        if fact is None:
            raise UnfitReply(f"{fact_id!r} is the id of none of your facts")
        if not isinstance(fact.value, bool) and not contains(text, fact.value):
            raise UnfitReply(f"it reports {fact_id} and does not state its value as written")
        reported.append(fact)
    told = [fact.spoken for fact in reported]
    for fact in facts.values():
        silent = fact not in reported and not isinstance(fact.value, bool)
        if not silent or not contains(text, fact.value):
            continue
        if said.public(fact.value) or any(contains(spoken, fact.value) for spoken in told):
            continue
        if len(fact.spoken) >= _SHORT or not contains(spoken.quote, fact.value):
            reported.append(fact)
    return [fact for fact in facts.values() if fact in reported]


def _check_form(text: str, stated: list[Fact]) -> None:
    rest = text
    for fact in stated:
        rest = rest.replace(fact.spoken, "")
    if len(rest) > MAX_CHARACTERS:
        raise UnfitReply("it is longer than a sentence")
    if len(_SENTENCE_END.findall(rest)) >= MAX_SENTENCES:
        raise UnfitReply("it has more than two sentences")


def _check_quote(said: Said, quote: str) -> None:
    """An answer from the background rests on words that stand there."""
    persona = said.task.persona
    own = (said.task.background, said.task.instruction, persona.description, persona.role)
    wanted = canonical(quote).strip("\"'. \u201c\u201d")
    if not wanted:
        raise UnfitReply("it answers from your background and quotes none of it")
    if not any(wanted in canonical(text) for text in (*own, persona.name)):
        raise UnfitReply("its quote does not stand in your background")


def _check_ignorance(said: Said) -> None:
    """What the user says not to know is not a fact that was asked for by its very name."""
    wanted = matcher_of(said.task).wanted(said.message, said.revealed)
    asked = {stem(word) for word in read_words(said.message)}
    light = lexicon().stems["function"]
    for fact in said.task.facts:
        named = {stem(word) for word in read_words(fact.label)} - light
        if [each.fact_id for each in wanted] == [fact.fact_id] and named and named <= asked:
            raise UnfitReply(f"it denies to know {fact.fact_id}, which was asked for")
