"""Who a model teacher makes tasks for: our own generated personas, and what an imported one lacks.

A generated persona is a pure function of its index: group and role, situation, trait and interest
are combined so that two personas of one role share no situation, and hardly any two share three
parts. The parts are data (`data/personas.toml`), names come from a seeded Faker. Imported sets live
in the database (`synthagent.store.personas`) and have no groups.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from functools import cache
from importlib import resources
from random import Random

from pydantic import BaseModel, ConfigDict, Field

from synthagent.worlds.compose.people import draw_name
from synthagent.worlds.spec import Persona

GENERATED = "generated"
"""Name of the set that this module makes."""

ANY_GROUP = "any"
"""The one group of an imported set."""

PERSONAS_PER_ROLE = 50
"""Fewer than there are situations, so that no role meets one twice."""

_DEFAULT_ROLE = "customer"


class _Parts(BaseModel):
    """The content of `data/personas.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    voices: tuple[str, ...] = Field(min_length=1)
    sentences: tuple[str, ...] = Field(min_length=1)
    situations: tuple[str, ...] = Field(min_length=PERSONAS_PER_ROLE)
    traits: tuple[str, ...] = Field(min_length=1)
    interests: tuple[str, ...] = Field(min_length=1)
    groups: dict[str, tuple[str, ...]] = Field(min_length=1)


@cache
def _parts() -> _Parts:
    path = resources.files(__package__) / "data" / "personas.toml"
    return _Parts.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))


@cache
def _roles() -> tuple[tuple[str, str], ...]:
    """Every role with its group, the groups taking turns, so that any page of personas is mixed."""
    groups = _parts().groups
    longest = max(len(roles) for roles in groups.values())
    return tuple(
        (group, roles[number])
        for number in range(longest)
        for group, roles in groups.items()
        if number < len(roles)
    )


def groups() -> tuple[str, ...]:
    """The groups of the generated personas: values of the route dimension "persona"."""
    return tuple(_parts().groups)


def count() -> int:
    """How many generated personas there are."""
    return len(_roles()) * PERSONAS_PER_ROLE


def group_of(index: int) -> str:
    """The group of a generated persona."""
    return _roles()[index % len(_roles())][0]


def generate(index: int) -> Persona:
    """The generated persona of an index from 0 to `count() - 1`. Raises IndexError."""
    if not 0 <= index < count():
        raise IndexError(f"there is no persona {index}; the last is {count() - 1}")
    parts = _parts()
    take, place = divmod(index, len(_roles()))
    _, role = _roles()[place]
    rng = Random(f"persona {index}")  # noqa: S311 - variety, not secrecy
    name = draw_name(rng, set())
    # Three strides that are pairwise different keep the parts of two personas from moving together.
    description = parts.sentences[(place + take) % len(parts.sentences)].format(
        who=name,
        who_short=name.partition(" ")[0],
        role=role,
        situation=parts.situations[(place + take) % len(parts.situations)],
        trait=parts.traits[(5 * place + 2 * take) % len(parts.traits)],
        interest=parts.interests[(11 * place + 3 * take) % len(parts.interests)],
    )
    return Persona(
        name=name,
        role=role.partition(" ")[2],
        description=description,
        voice=rng.choice(parts.voices),
    )


def draw(group: str, nth: int, seed: int) -> Persona:
    """The `nth` generated persona that a request of that seed draws from a group.

    No persona comes twice before the group is used up. Raises ValueError for an unknown group.
    """
    places = [place for place, (each, _) in enumerate(_roles()) if each == group]
    if not places:
        raise ValueError(f"there is no group {group!r} of personas")
    position = spread(f"{seed}/{group}", nth, len(places) * PERSONAS_PER_ROLE)
    take, place = divmod(position, len(places))
    return generate(take * len(_roles()) + places[place])


def spread(key: str, nth: int, size: int) -> int:
    """The `nth` position of a walk over `size` positions that meets each once before any again."""
    stride = next(step for step in (7919, 7907, 1) if math.gcd(step, size) == 1)  # primes
    return (number_of(key) + nth * stride) % size


def completed(name: str, role: str, description: str, voice: str) -> Persona:
    """A persona from elsewhere, with a name, a role and a voice where it has none.

    What is added follows from the description. Raises ValueError for a voice that is no name.
    """
    rng = Random(f"imported {description}")  # noqa: S311 - variety, not secrecy
    drawn = draw_name(rng, set())
    return Persona(
        name=name or drawn,
        role=role or _DEFAULT_ROLE,
        description=description,
        voice=voice or rng.choice(_parts().voices),
    )


def number_of(key: str) -> int:
    """A number of 64 bits that follows from the key on any machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
