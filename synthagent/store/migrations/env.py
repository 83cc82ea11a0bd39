"""Runs migrations on the connection that `schema` gives, in one transaction."""

from alembic import context
from sqlalchemy import Connection
from sqlmodel import SQLModel

from synthagent.store import tables

connection: Connection = context.config.attributes["connection"]
assert tables.TaskRow.metadata is SQLModel.metadata  # noqa: S101 - says why tables is imported
context.configure(
    connection=connection,
    target_metadata=SQLModel.metadata,
    transactional_ddl=True,  # SQLite can; alembic assumes an older driver
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
