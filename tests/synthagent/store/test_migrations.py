"""Migrations up and down with rows in every table: what a revision can hold, it keeps.

The rows of each revision are written by that revision's own tables, as they are in the database.
"""

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from synthagent.store import downgrade, schema, upgrade
from synthagent.store.database import open_engine

ROWS = 3
Rows = dict[str, list[dict[str, object]]]


def revisions() -> list[str]:
    """Every revision, oldest first."""
    config = Config()
    config.set_main_option("script_location", str(schema._MIGRATIONS))
    found = ScriptDirectory.from_config(config).walk_revisions()
    return [script.revision for script in found][::-1]


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[sa.Engine]:
    opened = open_engine(empty_database_url)
    yield opened
    opened.dispose()


def tables(engine: sa.Engine) -> list[sa.Table]:
    """The tables as they are, those that others refer to first."""
    found = sa.MetaData()
    found.reflect(engine)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def value(column: sa.Column[object], number: int, chance: random.Random) -> object:
    """Something of the column's type that is not its default."""
    match column.type:
        case sa.Boolean():
            return True
        case sa.LargeBinary():
            return chance.randbytes(8) + b"\x00"
        case sa.Integer():
            return number + 1
        case sa.Float():
            return number + 0.25
        case _:
            return f"{number} ä\n"


def fill(engine: sa.Engine) -> None:
    """Adds rows to every table; references of row n go to row n."""
    chance = random.Random(1)
    with engine.begin() as connection:
        for table in tables(engine):
            for number in range(ROWS):
                row = {column.name: value(column, number, chance) for column in table.columns}
                for reference in table.foreign_keys:
                    row[reference.parent.name] = f"{number} ä\n"
                connection.execute(table.insert(), row)


def read(engine: sa.Engine) -> Rows:
    with engine.connect() as connection:
        return {
            table.name: [
                dict(row)
                for row in connection.execute(
                    table.select().order_by(*table.primary_key.columns)
                ).mappings()
            ]
            for table in tables(engine)
        }


def shared(rows: Rows, other: Rows) -> Rows:
    """The part of `rows` whose tables and columns `other` has, too."""
    return {
        name: [{key: row[key] for key in row if key in other[name][0]} for row in found]
        for name, found in rows.items()
        if name in other
    }


@pytest.mark.parametrize(("older", "newer"), list(pairwise(revisions())))
def test_up_keeps_every_value_and_down_what_the_older_can_hold(
    engine: sa.Engine, empty_database_url: str, older: str, newer: str
) -> None:
    upgrade(empty_database_url, older)
    fill(engine)
    before = read(engine)
    assert all(len(found) == ROWS for found in before.values())

    upgrade(empty_database_url, newer)
    after = read(engine)
    assert shared(after, before) == before

    downgrade(empty_database_url, older)
    assert read(engine) == before
    upgrade(empty_database_url, newer)
    assert read(engine) == after


def test_down_from_a_full_database_and_up_again(engine: sa.Engine, empty_database_url: str) -> None:
    upgrade(empty_database_url)
    fill(engine)
    full = read(engine)
    older = revisions()[-2]
    downgrade(empty_database_url, older)
    held = read(engine)
    assert held == shared(full, held)
    upgrade(empty_database_url)
    again = read(engine)
    assert shared(again, held) == held
    assert set(again) == set(full)


def test_rows_go_on_where_they_stopped(engine: sa.Engine, empty_database_url: str) -> None:
    """A key that numbers itself gives no number twice, whatever became of the schema between."""
    upgrade(empty_database_url, revisions()[0])
    insert = "INSERT INTO run (run_id, spec, spec_digest, task_ids, state, created_at) VALUES "
    with engine.begin() as connection:
        connection.execute(sa.text(insert + "('a', '', '', '', '', 0), ('b', '', '', '', '', 0)"))
    upgrade(empty_database_url)
    with engine.begin() as connection:
        connection.execute(sa.text(insert + "('c', '', '', '', '', 0)"))
        numbers = connection.execute(sa.text("SELECT ordinal FROM run ORDER BY run_id")).scalars()
        assert list(numbers) == [1, 2, 3]
