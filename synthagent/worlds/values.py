"""What all values of the kernel have in common: base, names, and how they are compared."""

from __future__ import annotations

import json
import re
from typing import Annotated

import orjson
from pydantic import BaseModel, ConfigDict, Field

Scalar = str | int | float | bool | None
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]
ToolName = Annotated[
    str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_. -]*[A-Za-z0-9_.-])?$", max_length=64)
]
TaskId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
Sql = Annotated[str, Field(min_length=1, max_length=4000)]


class Value(BaseModel):
    """Base of all values: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: one value, one spelling."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


_LONG_NUMBER = re.compile(r"\d{19}")
"""In every integer beyond 64 bits, and in hardly anything else."""


def exact_json(text: str) -> object:
    """The value of a JSON text, with all digits of its integers once it is written again.

    For text that is only read to be written: orjson makes floats of integers beyond 64 bits, so
    that near ones become the same; here they are fragments. Raises orjson.JSONDecodeError.
    """
    value: object = orjson.loads(text)
    return json.loads(text, parse_int=_integer) if _LONG_NUMBER.search(text) else value


def _integer(digits: str) -> int | orjson.Fragment:
    """An integer that orjson can write. JSON has one spelling for each."""
    return int(digits) if len(digits) < 19 else orjson.Fragment(digits)


_NUMBER = re.compile(r"(?<=\d),(?=\d{3}\b)")


def normalise(text: str) -> str:
    """Text for comparison: case-folded, single spaces, no thousands separators."""
    return " ".join(_NUMBER.sub("", text.casefold()).split())
