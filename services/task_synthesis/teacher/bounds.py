"""Bounds on what a model writes: every text and value of a product is made clean and finite here.

Model text is data. Control characters, lone surrogates and odd spaces go; what is too long, too
deep or no JSON is refused with a sentence that the model can act on. Bounds are checked by
validators and not written into the JSON Schema, because long bounds slow guided decoding down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue, WithJsonSchema

from synthagent.worlds.values import Scalar

MAX_DEPTH = 12
MAX_JSON_BYTES = 8192
_INT64 = 1 << 63
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
    r"|[\ud800-\uf8ff\ufff0-\ufffb\ufffe\uffff\U000e0000-\U0010ffff]"
)
"""Controls, invisible and reordering characters, surrogates, private use."""

_NOT_ID = re.compile(r"[^a-z0-9]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Product(BaseModel):
    """Base of all that a model writes: unknown fields are ignored, nothing is shared."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def printable(text: str) -> str:
    """The text without control characters and lone surrogates; line breaks and tabs stay."""
    return _UNPRINTABLE.sub("", text)


def single_line(text: str) -> str:
    """Printable text in one line with single spaces."""
    return " ".join(printable(text).split())


def _bounded(clean: Callable[[str], str], most: int, least: int, text: str) -> str:
    cleaned = clean(text).strip()
    if len(cleaned) > most:
        raise ValueError(f"has {len(cleaned)} characters; at most {most} are allowed")
    if len(cleaned) < least:
        raise ValueError("must not be empty")
    return cleaned


Label = Annotated[str, AfterValidator(partial(_bounded, single_line, 80, 1))]
Line = Annotated[str, AfterValidator(partial(_bounded, single_line, 400, 1))]
OptionalLine = Annotated[str, AfterValidator(partial(_bounded, single_line, 400, 0))]
Passage = Annotated[str, AfterValidator(partial(_bounded, printable, 4000, 1))]
OptionalPassage = Annotated[str, AfterValidator(partial(_bounded, printable, 4000, 0))]
SqlText = Annotated[str, AfterValidator(partial(_bounded, printable, 4000, 1))]
OptionalSql = Annotated[str, AfterValidator(partial(_bounded, printable, 4000, 0))]


def _finite(value: JsonValue) -> JsonValue:
    """The value with every text printable. Raises ValueError where it is too deep, large or odd."""
    cleaned = _clean(value, MAX_DEPTH)
    if len(orjson.dumps(cleaned)) > MAX_JSON_BYTES:
        raise ValueError(f"is longer than {MAX_JSON_BYTES} bytes")
    return cleaned


def _clean(value: JsonValue, depth: int) -> JsonValue:
    if depth == 0:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {printable(key): _clean(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, depth - 1) for item in value]
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that is not finite")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise ValueError("holds a number of more than 64 bits")
    return value


def _object(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    cleaned = _finite(value)
    return cleaned if isinstance(cleaned, dict) else {}


def _scalar(value: Scalar) -> Scalar:
    cleaned = _finite(value)
    return cleaned if not isinstance(cleaned, dict | list) else None


JsonObject = Annotated[
    dict[str, JsonValue], AfterValidator(_object), WithJsonSchema({"type": "object"})
]
JsonScalar = Annotated[Scalar, AfterValidator(_scalar)]


def words(name: str) -> str:
    """A name as words: "FlightSearch_v2" is "flight search v2"."""
    return " ".join(re.split(r"[^A-Za-z0-9]+", _CAMEL.sub(" ", name))).strip().casefold()


def plain(name: str) -> str:
    """A name without regard to case, separators and camel case, to find it by."""
    return words(name).replace(" ", "")


def identifier(text: str, taken: set[str], fallback: str) -> str:
    """An identifier made of the text, new to `taken`, which it joins: [a-z][a-z0-9_]{0,62}."""
    stem = _NOT_ID.sub("_", words(text)).strip("_")[:48].strip("_")
    if not stem or not stem[0].isalpha():
        stem = f"{fallback}_{stem}".strip("_")
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name
