"""When two values are the same to a rubric, and when a text contains a value.

Owns the tolerance of the rubric: case and outer space of strings, number formats, and word
boundaries, so that 12 is found in "12 euros" and in "12.0" but not in "120" or "B-12".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from functools import lru_cache

import orjson
from pydantic import JsonValue

from synthagent.worlds.values import Scalar, normalise

# A sign belongs to the number only where no word stands before it: "B-12" holds no number.
_NUMBER = re.compile(r"(?<![\w.])(?<!\w-)-?\d+(?:\.\d+)?(?!\w|\.\d)")
_PLAIN_NUMBER = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?")
_MAX_TEXT = 20_000  # characters of a text that are looked at


@lru_cache(maxsize=256)
def canonical(text: str) -> str:
    """A text ready for comparison."""
    return normalise(text[:_MAX_TEXT].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def contains(text: str, value: JsonValue) -> bool:
    """Whether a text contains a scalar, on word boundaries and whatever the number format."""
    if isinstance(value, bool):
        return any(_contains_phrase(text, word) for word in (_YES if value else _NO))
    spelled = value if isinstance(value, str) else orjson.dumps(value).decode()
    number = _number(canonical(spelled))
    if number is None:
        return _contains_phrase(text, spelled)
    return number in _numbers(canonical(text))


_YES = ("true", "yes")
_NO = ("false", "no")


@lru_cache(maxsize=64)
def _numbers(text: str) -> frozenset[Decimal]:
    return frozenset(Decimal(match) for match in _NUMBER.findall(text))


def _number(text: str) -> Decimal | None:
    if not _PLAIN_NUMBER.fullmatch(text):
        return None
    try:
        return Decimal(text)
    except InvalidOperation:  # digits of another script that Decimal does not read
        return None


def _contains_phrase(text: str, phrase: str) -> bool:
    wanted = canonical(phrase)
    haystack = canonical(text)
    if not wanted or wanted not in haystack:
        return False
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", haystack) is not None


def same(value: JsonValue, expected: Scalar) -> bool:
    """Whether an argument equals an expected scalar: 1 is 1.0, true is not 1, case is ignored."""
    if isinstance(value, str) and isinstance(expected, str):
        return value.strip().casefold() == expected.strip().casefold()
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, list | dict):
        return False
    return value == expected


def uses(arguments: JsonValue, value: JsonValue) -> bool:
    """Whether a value occurs anywhere among the values of a call's arguments."""
    return any(
        leaf is value
        if isinstance(value, bool) or isinstance(leaf, bool)
        else contains(leaf if isinstance(leaf, str) else orjson.dumps(leaf).decode(), value)
        for leaf in leaves(arguments)
    )


def leaves(value: JsonValue) -> Iterator[Scalar]:
    """The scalars of a JSON value, in order."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value
