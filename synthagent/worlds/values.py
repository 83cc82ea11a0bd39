"""What all values of the kernel have in common: base, names, and how they are compared."""

from __future__ import annotations

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


_NUMBER = re.compile(r"(?<=\d),(?=\d{3}\b)")


def normalise(text: str) -> str:
    """Text for comparison: case-folded, single spaces, no thousands separators."""
    return " ".join(_NUMBER.sub("", text.casefold()).split())
