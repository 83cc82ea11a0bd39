"""The sets of personas that a request may name: our generated one, and those that were imported."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from sqlalchemy import Connection

from services.task_synthesis import personas
from synthagent.errors import InvalidInput, NotFound
from synthagent.store import Store
from synthagent.store import personas as stored
from synthagent.store.pages import place
from synthagent.store.personas import PersonaPage
from synthagent.worlds.spec import Persona


class PersonaSets:
    """Adds to sets and reads them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def check(self, name: str, field: str) -> None:
        """Raises InvalidInput, naming `field`, where there is no such set to draw from."""
        if name != personas.GENERATED and not await self._store.read(
            lambda c: stored.count(c, name)
        ):
            raise InvalidInput(await self._unknown(name), field=field)

    async def add(self, name: str, given: Sequence[Persona]) -> tuple[int, int]:
        """How many of the personas are new in the set, and how many it holds now."""

        def write(connection: Connection) -> tuple[int, int]:
            return stored.put(connection, name, given), stored.count(connection, name)

        return await self._store.write(write)

    async def page(self, name: str, size: int, token: str) -> PersonaPage:
        """A page of a set. Raises NotFound; InvalidInput for a page token that is not ours."""
        if name == personas.GENERATED:
            return _generated_page(size, token)
        page = await self._store.read(
            lambda c: stored.list_page(c, name, page_size=size, page_token=token)
        )
        if not page.total:
            raise NotFound(await self._unknown(name), field="persona_set")
        return page

    async def _unknown(self, name: str) -> str:
        names = [personas.GENERATED, *await self._store.read(stored.sets)]
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"There is no set of personas {name!r}; {hint}sets: {', '.join(names)}."


def _generated_page(size: int, token: str) -> PersonaPage:
    total = personas.count()
    first = min(place(token), total)
    last = min(first + size, total)
    return PersonaPage(
        personas=tuple(personas.generate(index) for index in range(first, last)),
        next_page_token=str(last) if last < total else "",
        total=total,
    )
