"""The first writer of a key wins: how a row comes to be that several replicas may write at once.

Such a row is inserted where its key is free and never looked up before: between a look and an
insert another replica may write. Who comes second waits for the first's transaction, inserts
nothing (`rowcount` is 0) and reads what the first wrote.
"""

from __future__ import annotations

import functools

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert


def insert_if_absent(connection: Connection, table: Table) -> Insert:
    """An INSERT that leaves a row alone whose key is already there.

    Its result's `rowcount` is the number of rows that were new, whatever the database.
    """
    return _insert(connection.dialect.name, table)


@functools.cache  # some run with every reply and verdict
def _insert(dialect: str, table: Table) -> Insert:
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    # Without the option, psycopg's count is gone before anybody asks: it reads -1.
    return insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
