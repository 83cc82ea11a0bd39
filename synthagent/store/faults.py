"""What a fault of the database means to the caller: one table for each database."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.exc import DataError, DBAPIError, OperationalError

from synthagent.errors import (
    BackendUnavailable,
    Corrupt,
    InvalidInput,
    StorageFull,
    SynthAgentError,
)

_RETRY_AFTER = timedelta(seconds=1)

_SQLITE_UNWRITABLE = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_IOERR")
_SQLITE_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_SQLITE_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")

_DEADLOCK = "40P01"
# SQLSTATEs, or how they begin: https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL_AWAY = (
    "08",  # the connection broke
    "25006",  # a standby that was promoted, or not yet
    "25P03",  # this process stood still in a transaction
    "40001",  # another transaction was first
    _DEADLOCK,
    "53200", "53300",  # out of memory, or of connections
    "55P03",  # waited too long for a lock
    "57",  # shut down, starting, or the statement took too long
)  # fmt: skip
_POSTGRESQL_DAMAGED = ("58P", "XX001", "XX002")


def translate(error: DBAPIError) -> SynthAgentError | None:
    """What a database error means to the caller; None where it is a fault of the statement."""
    name = str(getattr(error.orig, "sqlite_errorname", ""))
    state = str(getattr(error.orig, "sqlstate", None) or "")
    text = str(error.orig)
    if name.startswith("SQLITE_FULL") or state == "53100" or "No space left" in text:
        return StorageFull("The disk of the database is full; free some space and call again.")
    if name.startswith(_SQLITE_UNWRITABLE):
        return StorageFull(
            f"The database cannot be written ({text}); see that its folder "
            "exists, may be written and has room."
        )
    if name.startswith(_SQLITE_DAMAGED) or state.startswith(_POSTGRESQL_DAMAGED):
        return Corrupt(f"The database is damaged ({text}); restore it from a copy.")
    if (
        name.startswith(_SQLITE_BUSY)
        or state.startswith(_POSTGRESQL_AWAY)
        or error.connection_invalidated
        or _could_not_connect(error)
    ):
        return out_of_reach()
    if isinstance(error, DataError):
        return InvalidInput(f"A value does not fit the database: {text.splitlines()[0]}.")
    return None


def out_of_reach() -> BackendUnavailable:
    """What is told where waiting helps."""
    return BackendUnavailable(
        "The database is busy or out of reach; call again.", retry_after=_RETRY_AFTER
    )


def is_deadlock(error: DBAPIError) -> bool:
    """Whether PostgreSQL ended the transaction because it and another waited for each other."""
    return getattr(error.orig, "sqlstate", None) == _DEADLOCK


def _could_not_connect(error: DBAPIError) -> bool:
    """Whether PostgreSQL was not there: only then its errors carry no SQLSTATE."""
    orig: object = error.orig
    return (
        isinstance(error, OperationalError) and getattr(orig, "sqlstate", "none of its own") is None
    )
