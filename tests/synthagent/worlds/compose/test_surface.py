"""Surfaces: identifiers and names of one world."""

import re
import sqlite3
from random import Random

import pytest

from synthagent.worlds.compose import Composer
from synthagent.worlds.compose.language import Concept
from synthagent.worlds.compose.library import library
from synthagent.worlds.compose.surface import JOINERS, Surface, draw_id_format

WORDS = {"item": "study room", "find": "find", "records": "bookings", "item_noun": "item"}


@pytest.mark.parametrize("seed", range(40))
def test_sql_makes_the_identifier_of_the_next_row(seed: int) -> None:
    form = draw_id_format(Random(seed), "study room", set(), plain=seed % 2 == 0)
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE item (id TEXT)")
    for position in range(4):
        (found,) = connection.execute(f"SELECT {form.sql('item')}").fetchone()
        assert found == form.text(position)
        connection.execute("INSERT INTO item VALUES (?)", (found,))
    connection.close()


def test_tables_of_a_world_have_different_prefixes() -> None:
    taken: set[str] = set()
    for seed in range(12):
        draw_id_format(Random(seed), "room", taken, plain=True)
    assert len(taken) == 12


@pytest.mark.parametrize("style", sorted(JOINERS))
def test_names_are_unique_and_in_style(style: str) -> None:
    surface = Surface(Random(1), style, WORDS, library().words)
    concepts = [(key, Concept(words=("name", "{item} name"))) for key in ("one", "two", "three")]
    surface.name_concepts(concepts, {})
    names = [surface.concept(key) for key, _ in concepts]
    assert len(set(names)) == 3
    tools = [surface.name_tool(key, ["{find} {item}"], "study room") for key in ("a", "b", "c")]
    assert len(set(tools)) == 3
    assert surface.tool("a") == tools[0]
    for tool in tools:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", tool)
    for name in names:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)


def test_worlds_differ_in_their_naming() -> None:
    composer = Composer("train", "standard")
    names = [tool.name for seed in range(40) for tool in composer.task(seed).world.tools]
    assert any("_" in name and "." not in name for name in names)
    assert any(re.fullmatch(r"[a-z]+([A-Z][a-z]+)+", name) for name in names)
    assert any(re.fullmatch(r"([A-Z][a-z]+){2,}", name) for name in names)
    assert any("-" in name for name in names)
    assert any("." in name for name in names)
