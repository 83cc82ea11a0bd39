"""What the embedded user knows of English: words, stems, and which phrases of a message ask.

Owns the lexicon (`lexicon.toml`, read once) and the cut of a message into asking phrases. Knows
nothing of tasks or facts. Pure: the same text always gives the same phrases, for any unicode text.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
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
    r"(\s*(?:[,&+/()\u2013\u2014:]|\band\b|\bor\b|\bplus\b|\bas well as\b|\bsuch as\b"
    r"|\bincluding\b|\bnamely\b)\s*)",
    re.IGNORECASE,
)
_LISTING = re.compile(r":|such as|including|namely", re.IGNORECASE)
_DECIMAL_SLASH = re.compile(r"(?<=\d)[,/:](?=\d)")
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
    """A sentence with its asking phrases in text order."""

    words: tuple[str, ...]
    phrases: tuple[Phrase, ...]


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
        Sentence(words, _phrases(part))
        for part in _SENTENCE.split(text)
        if (words := read_words(part))
    )


def _phrases(sentence: str) -> tuple[Phrase, ...]:
    """The asking phrases of one sentence; a cue holds for the pieces that follow it."""
    pieces = _PIECE.split(_DECIMAL_SLASH.sub(".", sentence))[: 2 * _PIECE_LIMIT]
    interrogative = (
        unicodedata.normalize("NFKC", sentence).rstrip(" \"')]}*_").endswith(("?", "\u061f", ";?"))
    )
    read = [read_words(piece) for piece in pieces[::2]]
    own = [_form(words, interrogative=interrogative) for words in read]
    if interrogative and not any(own):
        own = [_fallback(words) for words in read]
    phrases: list[Phrase] = []
    inherited: Form | None = None
    everything = False
    for index, words in enumerate(read):
        if not words:
            continue
        if index and _LISTING.search(pieces[2 * index - 1]):
            everything = False
        form = own[index]
        if form is not None:
            inherited, everything = form, False
        elif words[0] in lexicon().words["explaining"]:
            inherited = None
        if lexicon().everything.search(" ".join(words)):
            everything = True
        if everything:
            continue
        if form is None and inherited is not None:
            phrases.append(Phrase(words, Form.REQUEST, certain=True))
        elif form is not None:
            phrases.append(Phrase(words, form, certain=True))
        elif not interrogative:
            phrases.append(Phrase(words, Form.BARE, certain=False))
    return tuple(phrases)


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
