"""What a route is drawn from: the dimensions, their values, and the wanted mix of them.

Values of domain, tool family and difficulty are data (`data/routes.toml`), those of persona are the
groups of the persona set. A domain belongs to one split, and to one teacher.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field

from services.task_synthesis.teacher import LENGTHS
from synthagent.errors import InvalidInput
from synthagent.worlds.spec import Split

Targets = Mapping[str, Mapping[str, float]]
"""Wanted share of each value, 0 to 1, by dimension; the shares of a dimension sum to 1."""

DIMENSIONS = ("domain", "persona", "tool_family", "length", "difficulty")


@dataclass(frozen=True, slots=True)
class Weight:
    """The weight of one value, relative to the others that are named for its dimension."""

    dimension: str
    value: str
    weight: float


class _Data(BaseModel):
    """The content of `data/routes.toml`: what each value is, as the teacher is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: dict[Split, dict[str, str]]
    tool_family: dict[str, str] = Field(min_length=1)
    difficulty: dict[str, str] = Field(min_length=1)


@cache
def _data() -> _Data:
    path = resources.files(__package__) / "data" / "routes.toml"
    return _Data.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))


def domains(split: Split) -> Mapping[str, str]:
    """The domains of a split, with what each is about."""
    return _data().domain[split]


def split_of(domain: str) -> Split | None:
    """The split that a domain belongs to; None where it is none of ours."""
    return next((split for split in Split if domain in domains(split)), None)


def tool_families() -> Mapping[str, str]:
    """The tool families, with what each is for."""
    return _data().tool_family


def difficulties() -> Mapping[str, str]:
    """The difficulties, with what makes each."""
    return _data().difficulty


def values(split: Split, persona_groups: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Every value that may be drawn, by dimension."""
    return {
        "domain": tuple(domains(split)),
        "persona": tuple(persona_groups),
        "tool_family": tuple(tool_families()),
        "length": tuple(LENGTHS),
        "difficulty": tuple(difficulties()),
    }


def targets(
    known: Mapping[str, Sequence[str]],
    weights: Sequence[Weight],
    *,
    field: str,
    only: Mapping[str, Sequence[str]],
) -> Targets:
    """The wanted mix: as weighted, or even where a dimension is not named.

    `only` narrows a dimension that the request names elsewhere. `field` is the path of the weights
    in the request. Raises InvalidInput.
    """
    named: dict[str, dict[str, float]] = {}
    for number, each in enumerate(weights):
        where = f"{field}[{number}]"
        check_known(each.dimension, known, f"{where}.dimension", "route dimension")
        allowed = only.get(each.dimension) or known[each.dimension]
        check_known(each.value, allowed, f"{where}.value", each.dimension)
        if not (math.isfinite(each.weight) and each.weight >= 0):
            raise InvalidInput(
                f"{where}.weight is {each.weight}; give a number of at least 0.",
                field=f"{where}.weight",
            )
        if each.value in named.setdefault(each.dimension, {}):
            raise InvalidInput(
                f"{where} gives {each.dimension} {each.value!r} a second weight; give one.",
                field=f"{where}.value",
            )
        named[each.dimension][each.value] = each.weight
    shares: dict[str, dict[str, float]] = {}
    for dimension in DIMENSIONS:
        wanted = named.get(dimension) or dict.fromkeys(only.get(dimension) or known[dimension], 1.0)
        largest = max(wanted.values())
        if not largest > 0:
            raise InvalidInput(
                f"All weights of the dimension {dimension} are 0; give one of them more.",
                field=field,
            )
        scaled = {value: weight / largest for value, weight in wanted.items()}  # no overflow
        total = sum(scaled.values())
        shares[dimension] = {value: part / total for value, part in scaled.items() if part > 0}
    return shares


def check_known(name: str, known: Iterable[str], field: str, what: str) -> None:
    """Raises InvalidInput, with the closest name, where `name` is none of the known ones."""
    names = list(known)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InvalidInput(f"There is no {what} {name!r}; {hint}{', '.join(names)}.", field=field)
