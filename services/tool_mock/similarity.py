"""Which earlier entries of a ledger a model gets to see: few, and the nearest.

Owns the bounds of what goes into a prompt, and the one judgement on sameness that no model may
make: other numbers and other identifiers are another call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from pydantic import JsonValue
from rapidfuzz import fuzz
from rapidfuzz.utils import default_process

from services.tool_mock.simulated_call import SimulatedCall
from synthagent.store.ledger import LedgerEntry

MAX_MATCHES = 8
MAX_EXEMPLARS = 6
MAX_ARGUMENTS = 2000
"""Characters of the arguments beyond which a call is not compared by a model."""
_EXEMPLAR_CHARACTERS = 6000  # of all exemplars together
_PUNCTUATION = re.compile(r"[\W_]+")


def possible_matches(arguments: str, entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """The entries that may ask for the same as `arguments` (canonical JSON), the nearest first."""
    if len(arguments) > MAX_ARGUMENTS:
        return []
    wanted = json.loads(arguments)  # not orjson, which rounds integers beyond 64 bits
    candidates = [
        entry
        for entry in entries
        if len(entry.arguments) <= MAX_ARGUMENTS
        and may_be_same(wanted, json.loads(entry.arguments))
    ]
    candidates.sort(key=lambda entry: -_likeness(arguments, entry.arguments))
    return candidates[:MAX_MATCHES]


def similar(call: SimulatedCall, entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """The entries that say most about a call, oldest first: its own tool's before others'."""

    def nearness(entry: LedgerEntry) -> tuple[bool, float]:
        likeness = _likeness(call.arguments[:MAX_ARGUMENTS], entry.arguments[:MAX_ARGUMENTS])
        return entry.tool == call.tool.name, likeness

    entries = list(entries)
    chosen: list[int] = []
    left = _EXEMPLAR_CHARACTERS
    for index in sorted(range(len(entries)), key=lambda i: nearness(entries[i]), reverse=True):
        size = len(entries[index].arguments) + len(entries[index].result)
        if size <= left and len(chosen) < MAX_EXEMPLARS:
            chosen.append(index)
            left -= size
    return [entries[index] for index in sorted(chosen, reverse=True)]


def _likeness(one: str, other: str) -> float:
    """By their words in any order, 0 to 100."""
    return fuzz.token_sort_ratio(one, other, processor=default_process)


def may_be_same(one: JsonValue, other: JsonValue) -> bool:
    """Whether two arguments may mean the same: no number, flag or identifier in them differs.

    An identifier is a text of one word with a digit in it; its case and punctuation do not count.
    What only one of them has may be a default.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return all(may_be_same(one[name], other[name]) for name in one.keys() & other.keys())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(may_be_same, one, other))
    if isinstance(one, str) and isinstance(other, str):
        identified = _is_identifier(one) and _is_identifier(other)
        return not identified or _letters(one) == _letters(other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other and isinstance(one, bool) is isinstance(other, bool)
    return True


def _is_identifier(text: str) -> bool:
    return len(text.split()) == 1 and any(character.isdigit() for character in text)


def _letters(text: str) -> str:
    return _PUNCTUATION.sub("", text).casefold()


def latest(items: Sequence[str], characters: int) -> int:
    """How many of the last items fit into so many characters; at least 1 where there is one."""
    count = 0
    for item in reversed(items):
        characters -= len(item)
        if characters < 0 and count:
            break
        count += 1
    return count
