"""What the embedded user knows of English: words, stems, and which phrases of a message ask.

Owns the lexicon (`lexicon.toml`, read once) and the cut of a message into asking phrases. What
refuses ("do not tell me the day") asks nothing, nor does what it goes on to list. Knows nothing of
tasks or facts. Pure: the same text always gives the same phrases, for any unicode text.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import snowballstemmer

_READ_CHARACTERS = 4000
"""How much of either end of a message the user reads. People skim; a flood is not a question."""

_PIECE_LIMIT = 40
"""How many pieces of a sentence the user follows."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_CLITIC = re.compile(r"'(?:s|d|ll|m|re|ve)\b")
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_SENTENCE = re.compile(r"(?<=[?\u037e\u061f\uff1f])|(?<=[.!;\u2026])(?=\s)|\n+")
_PIECE = re.compile(
    r"(\s*(?:[,&+/()\u2013\u2014:]|\band\b|\bor\b|\bbut\b|\bplus\b|\bas well as\b|\bsuch as\b"
    r"|\bincluding\b|\bnamely\b)\s*)",
    re.IGNORECASE,
)
_LISTING = re.compile(r":|such as|including|namely", re.IGNORECASE)
_DECIMAL_SLASH = re.compile(r"(?<=\d)[,/:](?=\d)")
_ARTICLES = frozenset(("the", "a", "an", "your", "their", "his", "her", "its"))
_SUBJECTS = frozenset(("i", "you", "we", "they", "it", "he", "she"))
_INVERTED = _SUBJECTS | frozenset(
    ("the", "your", "my", "this", "that", "there", "any", "a", "an", "their", "his", "her", "its")
)


class Form(StrEnum):
    """How a phrase asks."""

    OPEN = "open"
    CLOSED = "closed"
    REQUEST = "request"
    BARE = "bare"


@dataclass(frozen=True, slots=True)
class Phrase:
    """One phrase that asks, or may: `certain` is False for a bare noun phrase without a cue."""

    words: tuple[str, ...]
    form: Form
    certain: bool


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence with its asking phrases in text order; `refuses` where a part of it refuses."""

    words: tuple[str, ...]
    phrases: tuple[Phrase, ...]
    refuses: bool = False


@dataclass(frozen=True)
class Lexicon:
    """The word lists by name, and relations between words, all as stems where they are compared."""

    spellings: dict[str, str]
    words: dict[str, frozenset[str]]
    stems: dict[str, frozenset[str]]
    synonyms: tuple[frozenset[str], ...]
    asking: dict[tuple[str, ...], frozenset[str]]
    everything: re.Pattern[str]
    wishing: re.Pattern[str]
    refusing: re.Pattern[str]
    urging: re.Pattern[str]
    familiar: frozenset[str]


_STEMMER = snowballstemmer.stemmer("english")


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """The stem of a lower-case word, by the Snowball English algorithm."""
    return str(_STEMMER.stemWord(word))


@cache
def lexicon() -> Lexicon:
    """The lexicon of `lexicon.toml`."""
    data: dict[str, Any] = tomllib.loads(
        Path(__file__).with_name("lexicon.toml").read_text(encoding="utf-8")
    )
    words = {name: frozenset(listed) for name, listed in data["words"].items()}
    stems = {name: frozenset(map(stem, listed)) for name, listed in words.items()}
    synonyms = tuple(frozenset(map(stem, group["words"])) for group in data["synonyms"])
    asking = {
        tuple(entry["phrase"].split()): frozenset(map(stem, entry["words"]))
        for entry in data["asking"]
    }
    return Lexicon(
        spellings=data["spellings"],
        words=words,
        stems=stems,
        synonyms=synonyms,
        asking=asking,
        everything=re.compile("|".join(data["patterns"]["everything"])),
        wishing=re.compile("|".join(data["patterns"]["wishing"])),
        refusing=re.compile("|".join(data["patterns"]["refusing"])),
        urging=re.compile("|".join(data["patterns"]["urging"])),
        familiar=frozenset().union(*stems.values(), *synonyms, *asking.values()),
    )


def read_words(text: str) -> tuple[str, ...]:
    """Lower-case words of a text, with identifiers taken apart and odd spellings resolved."""
    plain = unicodedata.normalize("NFKC", _CAMEL.sub(" ", text)).casefold()
    plain = _CLITIC.sub(" ", plain.replace("\u2019", "'").replace("`", "'")).replace("'", "")
    spellings = lexicon().spellings
    found: list[str] = []
    for word in _WORD.findall(plain):
        if spelling := spellings.get(word):
            found.extend(spelling.split())
        else:
            found.extend(word.split("-"))
    return tuple(found)


def read_sentences(text: str) -> tuple[Sentence, ...]:
    """The sentences of a message that the user reads, each with its asking phrases."""
    if len(text) > 2 * _READ_CHARACTERS:
        text = f"{text[:_READ_CHARACTERS]}\n{text[-_READ_CHARACTERS:]}"
    return tuple(
        _read_sentence(words, part) for part in _SENTENCE.split(text) if (words := read_words(part))
    )


def _read_sentence(whole: tuple[str, ...], sentence: str) -> Sentence:
    """A sentence with its asking phrases; a cue holds for the pieces that follow it."""
    pieces = _PIECE.split(_DECIMAL_SLASH.sub(".", sentence))[: 2 * _PIECE_LIMIT]
    interrogative = (
        unicodedata.normalize("NFKC", sentence).rstrip(" \"')]}*_").endswith(("?", "\u061f", ";?"))
    )
    read = [_bare(read_words(piece)) for piece in pieces[::2]]
    refused = _refused(read, pieces[1::2])
    own = [
        None if no else _form(words, interrogative=interrogative)
        for words, no in zip(read, refused, strict=True)
    ]
    if interrogative and not any(own) and not any(refused):
        own = [_fallback(words) for words in read]
    phrases: list[Phrase] = []
    inherited: Form | None = None
    everything = False
    for index, (words, form) in enumerate(zip(read, own, strict=True)):
        if not words:
            continue
        if index and _LISTING.search(pieces[2 * index - 1]):
            everything = False
        if form is not None:
            inherited, everything = form, False
        elif refused[index] or words[0] in lexicon().words["explaining"]:
            inherited = None
        everything = everything or bool(lexicon().everything.search(" ".join(words)))
        phrase = _phrase(words, form, inherited, interrogative=interrogative)
        if phrase is not None and not everything and not refused[index]:
            phrases.append(phrase)
    return Sentence(whole, tuple(phrases), any(refused))


def _phrase(
    words: tuple[str, ...], form: Form | None, inherited: Form | None, *, interrogative: bool
) -> Phrase | None:
    """What a piece asks, by its own form or that of an earlier piece; None for a mere remark."""
    if form is None and inherited is not None:
        return Phrase(words, Form.REQUEST, certain=True)
    if form is not None:
        return Phrase(words, form, certain=True)
    return None if interrogative else Phrase(words, Form.BARE, certain=False)


def _bare(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words without what only urges: "why don't you tell me" is "tell me"."""
    text = " ".join(words)
    urged = lexicon().urging.match(text)
    return tuple(text[urged.end() :].split()) if urged else words


def _refused(pieces: Sequence[tuple[str, ...]], separators: Sequence[str]) -> list[bool]:
    """Which pieces of a sentence refuse: those that say so, and what such a piece lists.

    The list ends where a piece asks by its own words, or takes an exception ("just the day").
    """
    known = lexicon()
    found: list[bool] = []
    refusing = False
    for words, before in zip(pieces, ("", *separators), strict=True):
        if "but" in before:
            refusing = False
        if words and known.refusing.search(" ".join(words)):
            refusing = True
        elif words and (words[0] in known.words["excepting"] or _requests(words)):
            refusing = False
        found.append(refusing)
    return found


def _requests(words: tuple[str, ...]) -> bool:
    """Whether a piece asks by its own words; "the name of the guest" is no command to name."""
    return words[0] not in _ARTICLES and _form(words, interrogative=False) is not None


def _fallback(words: tuple[str, ...]) -> Form:
    """The form of a piece of a question that has no cue but the question mark."""
    asks = lexicon().words["wh"]
    return Form.OPEN if any(word in asks for word in words) else Form.REQUEST


def _form(words: tuple[str, ...], *, interrogative: bool) -> Form | None:
    """How a piece asks by its own words; None where it does not."""
    known = lexicon().words
    start = 0
    while start < len(words) and words[start] in known["opening"]:
        start += 1
    rest = words[start:]
    follower = rest[1] if len(rest) > 1 else ""
    form = None
    asks = bool(rest) and rest[0] in known["wh"] and follower not in _SUBJECTS
    if asks or (interrogative and any(word in known["wh"] for word in rest[1:])):
        form = Form.OPEN
    elif rest and rest[0] in known["auxiliary"] and follower != "not":
        if interrogative or follower in _INVERTED:
            form = Form.CLOSED
    elif rest and rest[0] in known["requesting"] and (follower or "please" in words[:start]):
        form = Form.REQUEST
    if form is None and lexicon().wishing.search(" ".join(words)):
        form = Form.REQUEST
    return form
