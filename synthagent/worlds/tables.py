"""Tables of a world: from data to SQLite, and from SQLite to a digest.

Owns the DDL, which is built from checked names and never from text of a world, the strictness of
values (STRICT tables hold exactly the declared type), and what the state hash covers.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import orjson

from synthagent.worlds.programs import WorldError
from synthagent.worlds.spec import Column, ColumnType, Table


def _quoted(name: str) -> str:
    return f'"{name}"'  # names hold letters, digits and underscores only


def _definition(column: Column) -> str:
    text = f"{_quoted(column.name)} {column.type.upper()}"
    if column.primary_key:
        text += " PRIMARY KEY"
    if column.primary_key or not column.nullable:
        text += " NOT NULL"
    if column.type is ColumnType.REAL:  # infinities have no JSON, so no place in results and hashes
        limit = "1.7976931348623157e308"
        text += f" CHECK ({_quoted(column.name)} BETWEEN -{limit} AND {limit})"
    return text


_PYTHON_TYPES: dict[ColumnType, tuple[type, ...]] = {
    ColumnType.TEXT: (str,),
    ColumnType.INTEGER: (int,),
    ColumnType.REAL: (int, float),
}


def load(connection: sqlite3.Connection, table: Table) -> None:
    """Creates a table with its seed rows. Raises WorldError."""
    columns = ", ".join(_definition(column) for column in table.columns)
    where = f"table {table.name}"
    try:
        connection.execute(f"CREATE TABLE {_quoted(table.name)} ({columns}) STRICT")
    except sqlite3.Error as error:
        raise WorldError(where, str(error)) from error
    marks = ", ".join("?" * len(table.columns))
    insert = f"INSERT INTO {_quoted(table.name)} VALUES ({marks})"  # noqa: S608  a checked name
    connection.execute("BEGIN")
    for number, row in enumerate(table.rows):
        for column, value in zip(table.columns, row, strict=True):
            missing = value is None and (column.primary_key or not column.nullable)
            if missing or not isinstance(value, (*_PYTHON_TYPES[column.type], type(None))):
                raise WorldError(
                    f"{where}, row {number}, column {column.name}",
                    f"{value!r} is no {column.type.value}",
                )
        try:
            connection.execute(insert, row)
        except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
            raise WorldError(f"{where}, row {number}", str(error)) from error
    connection.execute("COMMIT")


class Digest:
    """Hashes the content of one table, whatever the order in which its rows are stored."""

    __slots__ = ("_order", "_select", "_title")

    def __init__(self, table: Table) -> None:
        names = [column.name for column in table.columns]
        self._select = f"SELECT * FROM {_quoted(table.name)}"  # noqa: S608  a checked name
        self._title = orjson.dumps([table.name, names])
        keys = [i for i, column in enumerate(table.columns) if column.primary_key]
        self._order: Callable[[tuple[object, ...]], Any] = (
            itemgetter(keys[0]) if keys else orjson.dumps
        )

    def of(self, connection: sqlite3.Connection | sqlite3.Cursor) -> bytes:
        """16 bytes. JSON keeps 1, 1.0 and "1" apart.

        A connection remembers some hundred of the cursors that it made: give one where there is.
        """
        rows = connection.execute(self._select).fetchall()
        rows.sort(key=self._order)
        return hashlib.blake2b(self._title + orjson.dumps(rows), digest_size=16).digest()


def combine(hashes: dict[str, bytes]) -> str:
    """The state hash, 32 hexadecimal digits, of the digests of all tables in world order."""
    return hashlib.blake2b(b"".join(hashes.values()), digest_size=16).hexdigest()
