"""Imported personas, by set, in the order in which they came. A set holds each persona once.

Functions take a Core connection and are given to `Store.read` or `Store.write`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select
from sqlmodel import col

from synthagent.store.first_writer import insert_if_absent
from synthagent.store.pages import place
from synthagent.store.tables import PersonaRow
from synthagent.worlds.spec import Persona
from synthagent.worlds.values import canonical_json

_persona = PersonaRow.metadata.tables["persona"]


@dataclass(frozen=True, slots=True)
class PersonaPage:
    """A page of a set; `next_page_token` is empty on the last one, `total` counts the whole set."""

    personas: tuple[Persona, ...]
    next_page_token: str
    total: int


def put(connection: Connection, persona_set: str, personas: Sequence[Persona]) -> int:
    """Adds personas to a set and returns how many of them are new in it."""
    rows = [
        {
            "persona_set": persona_set,
            "persona_id": _digest(persona),
            "body": persona.model_dump_json(),
        }
        for persona in personas
    ]
    return connection.execute(insert_if_absent(connection, _persona), rows).rowcount if rows else 0


def count(connection: Connection, persona_set: str) -> int:
    """How many personas the set holds; 0 where there is no such set."""
    found = connection.execute(
        select(func.count()).where(col(PersonaRow.persona_set) == persona_set)
    )
    return int(found.scalar_one())


def sets(connection: Connection) -> list[str]:
    """The names of all sets, sorted."""
    name = col(PersonaRow.persona_set)
    return list(connection.execute(select(name).distinct().order_by(name)).scalars())


def at(connection: Connection, persona_set: str, position: int) -> Persona:
    """The persona at a position of the set, from 0. Raises IndexError."""
    body = connection.execute(
        select(col(PersonaRow.body))
        .where(col(PersonaRow.persona_set) == persona_set)
        .order_by(col(PersonaRow.ordinal))
        .offset(position)
        .limit(1)
    ).scalar_one_or_none()
    if body is None:
        raise IndexError(f"the set {persona_set!r} has no persona {position}")
    return Persona.model_validate_json(body)


def list_page(
    connection: Connection, persona_set: str, *, page_size: int = 100, page_token: str = ""
) -> PersonaPage:
    """Personas in the order of their import. Raises InvalidInput for a page token not ours."""
    rows = connection.execute(
        select(col(PersonaRow.ordinal), col(PersonaRow.body))
        .where(
            col(PersonaRow.persona_set) == persona_set,
            col(PersonaRow.ordinal) > place(page_token),
        )
        .order_by(col(PersonaRow.ordinal))
        .limit(page_size + 1)
    ).all()
    page = rows[:page_size]
    return PersonaPage(
        personas=tuple(Persona.model_validate_json(body) for _, body in page),
        next_page_token=str(page[-1][0]) if len(rows) > page_size else "",
        total=count(connection, persona_set),
    )


def _digest(persona: Persona) -> str:
    return hashlib.sha256(canonical_json(persona.model_dump(mode="json"))).hexdigest()
