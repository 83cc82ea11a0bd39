"""Imported personas in a real database."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection

from synthagent.errors import InvalidInput
from synthagent.store import Store
from synthagent.store import personas as stored
from synthagent.worlds.spec import Persona


def persona(number: int) -> Persona:
    return Persona(name=f"N{number}", role="baker", description=f"Bakes {number}.", voice="plain")


async def test_a_set_holds_each_persona_once_in_order(store: Store) -> None:
    many = [persona(number) for number in range(1200)]

    assert await store.write(lambda c: stored.put(c, "bakers", many)) == 1200
    more = [persona(3), persona(1200), persona(1200)]
    assert await store.write(lambda c: stored.put(c, "bakers", more)) == 1
    assert await store.write(lambda c: stored.put(c, "others", [persona(3)])) == 1

    def read(connection: Connection) -> None:
        assert stored.count(connection, "bakers") == 1201
        assert stored.count(connection, "nobody") == 0
        assert stored.sets(connection) == ["bakers", "others"]
        assert stored.at(connection, "bakers", 0) == persona(0)
        assert stored.at(connection, "bakers", 1200) == persona(1200)
        assert stored.at(connection, "others", 0) == persona(3)
        with pytest.raises(IndexError):
            stored.at(connection, "others", 1)
        found: list[Persona] = []
        token = ""
        while True:
            page = stored.list_page(connection, "bakers", page_size=500, page_token=token)
            assert page.total == 1201
            found.extend(page.personas)
            token = page.next_page_token
            if not token:
                break
        assert found == [*many, persona(1200)]
        with pytest.raises(InvalidInput):
            stored.list_page(connection, "bakers", page_token="x")

    await store.read(read)
    await store.close()
