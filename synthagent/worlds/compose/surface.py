"""How one world looks to the agent: names of tools, parameters and fields, and identifiers.

A Surface is drawn once for a world and then answers the same for the same question, so a concept
is called alike in every tool of that world. Names never depend on the order in which they are asked
for: they are drawn up front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, count
from random import Random

from synthagent.worlds.compose.language import Concept
from synthagent.worlds.compose.vocabulary import Words
from synthagent.worlds.compose.wording import render, words_of

Joiner = Callable[[list[str]], str]


def _camel(words: list[str]) -> str:
    return words[0] + "".join(word.capitalize() for word in words[1:])


def _pascal(words: list[str]) -> str:
    return "".join(word.capitalize() for word in words)


JOINERS: dict[str, Joiner] = {
    "snake": "_".join,
    "camel": _camel,
    "pascal": _pascal,
    "kebab": "-".join,
    "dotted": "_".join,
    "dotted_camel": _camel,
}
_FIELD_STYLE: dict[str, str] = {
    "snake": "snake",
    "camel": "camel",
    "pascal": "camel",
    "kebab": "snake",
    "dotted": "snake",
    "dotted_camel": "camel",
}
# Words that SQLite or JSON readers may stumble over when they stand alone.
_LONGEST = 64  # characters of a tool's name, by the contract
_RESERVED = frozenset({"order", "group", "from", "to", "table", "index", "case", "check", "set"})


@dataclass(frozen=True)
class IdFormat:
    """How the identifiers of one table look: text, a running number, text.

    The number of the n-th row is start + stride x n, so the next one follows from a count.
    """

    before: str
    after: str
    start: int
    stride: int
    hexadecimal: bool = False

    def text(self, position: int) -> str:
        """The identifier of the row at that position."""
        number = self.start + self.stride * position
        spelled = f"{number:x}" if self.hexadecimal else str(number)
        return f"{self.before}{spelled}{self.after}"

    def sql(self, table: str) -> str:
        """A scalar SQL expression for the next identifier of a table that only grows."""
        pattern = f"{self.before}%{'x' if self.hexadecimal else 'd'}{self.after}"
        count = f"(SELECT count(*) FROM {table})"  # noqa: S608  tables of our data files
        return f"format('{pattern}', {self.start} + {self.stride} * {count})"


def draw_id_format(rng: Random, noun: str, taken: set[str], *, plain: bool) -> IdFormat:
    """A format whose prefix no other table of the world has; a plain one is short."""
    prefix = _prefix(rng, noun, taken)
    if plain:
        before = prefix + rng.choice(["-", ""])
        return IdFormat(before, "", rng.randint(101, 799), rng.randint(1, 9))
    low = prefix.lower()
    before, after = rng.choice(
        [
            (f"{prefix}-", ""),
            (prefix, ""),
            (f"{low}_", ""),
            (f"{prefix}-", f"-{rng.choice('ABCDEFGHKMPRT')}"),
            (f"{prefix}/", ""),
            (f"{prefix}{rng.randint(21, 29)}-", ""),
            (f"{low}-", ""),
        ]
    )
    stride = rng.choice([1, 1, 3, 7, 11, 13])
    if before == f"{low}_":
        return IdFormat(before, "", rng.randint(0x15000, 0xE0000), stride * 37, hexadecimal=True)
    return IdFormat(before, after, rng.randint(1000, 8999), stride)


def _prefix(rng: Random, noun: str, taken: set[str]) -> str:
    words = words_of(noun)
    head = words[-1]
    initials = "".join(word[0] for word in words)
    options = [initials, head[:2], head[:3], head[0] + head[-1]]
    rng.shuffle(options)
    while (prefix := options.pop().upper() if options else _letters(rng)) in taken:
        pass
    taken.add(prefix)
    return prefix


def _letters(rng: Random) -> str:
    return "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(2))


class Surface:
    """Names of one world."""

    def __init__(self, rng: Random, style: str, words: dict[str, str], shared: Words) -> None:
        self.style = style
        self._rng = rng
        self._words = words
        self._join = JOINERS[style]
        self._join_field = JOINERS[_FIELD_STYLE[style]]
        self._id_name = rng.choice(shared.id_names)
        self._namespace_plural = rng.random() < 0.5
        self._concepts: dict[str, str] = {}
        self._tools: dict[str, str] = {}

    def name_concepts(self, concepts: Iterable[tuple[str, Concept]], nouns: dict[str, str]) -> None:
        """Draws a name for each concept; no two share one. `nouns` maps tables to noun keys."""
        taken = set(self._concepts.values())
        for key, concept in concepts:
            patterns = self._patterns(concept, nouns)
            self._rng.shuffle(patterns)
            for pattern in (*patterns, key.replace("_", " ")):
                name = self._join_field(words_of(render(pattern, self._words)))
                if name.lower() not in {one.lower() for one in taken} | _RESERVED:
                    break
            taken.add(name)
            self._concepts[key] = name

    def _patterns(self, concept: Concept, nouns: dict[str, str]) -> list[str]:
        if concept.words:
            return list(concept.words)
        if concept.id:
            return [self._id_name.replace("{noun}", "{" + nouns[concept.id] + "}")]
        return ["{" + (concept.pool or concept.measure) + "}"]

    def concept(self, key: str) -> str:
        """The name of a parameter or field."""
        return self._concepts[key]

    def field_key(self, pattern: str) -> str:
        """The name of a flag, or of a result's array."""
        return self._join_field(words_of(render(pattern, self._words)))

    def name_tool(self, key: str, patterns: Iterable[str], noun: str) -> str:
        """Draws the name of a tool; no two share one."""
        taken = set(self._tools.values())
        options = list(patterns)
        self._rng.shuffle(options)
        prefix = f"{self._join(words_of(noun))}." if self.style.startswith("dotted") else ""
        numbered = (f"{options[0]} {number}" for number in count(2))
        for pattern in chain(options, numbered):
            name = prefix + self._join(words_of(render(pattern, self._words)))
            if len(name) <= _LONGEST and name not in taken:
                break
        self._tools[key] = name
        return name

    def tool(self, key: str) -> str:
        """The name of a tool that was drawn."""
        return self._tools[key]
