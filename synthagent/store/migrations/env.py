"""Runs migrations on the connection that `schema` gives, in one transaction."""

from alembic import context
from sqlalchemy import Connection, func, select
from sqlmodel import SQLModel

from synthagent.store import tables

_LOCK = 0x5A_9E_47
"""Number of our advisory lock, the same in every version."""

connection: Connection = context.config.attributes["connection"]
assert tables.TaskRow.metadata is SQLModel.metadata  # noqa: S101 - says why tables is imported
context.configure(
    connection=connection,
    target_metadata=SQLModel.metadata,
    transactional_ddl=True,  # SQLite can; alembic assumes an older driver
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    if connection.dialect.name == "postgresql":
        # Whoever starts together takes turns; the lock ends with the transaction.
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    context.run_migrations()
