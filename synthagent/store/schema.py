"""Brings a database to the schema of this version, and back.

Migrations live in `migrations/versions`, one file a change. All of an upgrade is one transaction
that holds a lock, on SQLite of the file and on PostgreSQL an advisory one: processes that start
together take turns, and an interrupted upgrade leaves nothing behind.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy.exc import DBAPIError

from synthagent.errors import PreconditionFailed
from synthagent.store.database import open_engine
from synthagent.store.faults import translate

_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database_url: str, revision: str = "head") -> None:
    """Brings the database to `revision`, creating it where there is none.

    Raises StorageFull, BackendUnavailable or Corrupt where the database is unusable, and
    PreconditionFailed where a newer version of SynthAgent made it.
    """
    _run(database_url, revision, up=True)


def downgrade(database_url: str, revision: str = "base") -> None:
    """Brings the database back to `revision`, dropping what later ones added. Errors: `upgrade`."""
    _run(database_url, revision, up=False)


def check_current(database_url: str) -> None:
    """Raises PreconditionFailed where the database's schema is not of this version."""
    engine = open_engine(database_url)
    try:
        with engine.connect() as connection, connection.begin():
            current = MigrationContext.configure(connection).get_current_revision()
    except DBAPIError as error:
        raise (translate(error) or error) from error
    finally:
        engine.dispose()
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if current != head:
        raise PreconditionFailed(
            f"The database has schema {current}, this version needs {head}; "
            "start once with SYNTHAGENT_MIGRATE=true."
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def _run(database_url: str, revision: str, *, up: bool) -> None:
    config = _config()
    engine = open_engine(database_url)
    try:
        with engine.connect().execution_options(synthagent_write=True) as connection:
            config.attributes["connection"] = connection
            (command.upgrade if up else command.downgrade)(config, revision)
    except DBAPIError as error:
        raise (translate(error) or error) from error
    except CommandError as error:
        raise PreconditionFailed(
            f"The database was made by another version of SynthAgent ({error}); use that version "
            "or another database."
        ) from error
    finally:
        engine.dispose()
