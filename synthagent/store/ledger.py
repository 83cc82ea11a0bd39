"""The ledger: what models answered for simulated tools, once and for all replicas.

An entry's key is (task, tool, canonical arguments, state version). The first writer of a key wins
in the database; `record` gives every writer the winner's entry. Entries are never changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, bindparam, literal, select

from synthagent.store import tasks
from synthagent.store.database import now
from synthagent.store.first_writer import insert_if_absent
from synthagent.store.pages import place
from synthagent.store.tables import LedgerEntryRow, TaskRow


class Source(StrEnum):
    """How an entry came about."""

    SEMANTIC = "semantic"
    GENERATED = "generated"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One answer. Fields as in `proto/synthagent/api/v1/tool.proto`."""

    task_id: str
    tool: str
    arguments: str
    """Canonical JSON."""
    state_version: str
    next_state_version: str
    """The same as `state_version` where the call changed nothing."""
    ok: bool
    result: str
    """JSON text; for an error {"error": {"code", "message"}}."""
    error_code: str
    source: Source
    match_reason: str = ""
    matched_arguments: str = ""


@dataclass(frozen=True, slots=True)
class LedgerPage:
    """A page of a task's entries; `next_page_token` is empty on the last one."""

    entries: tuple[LedgerEntry, ...]
    next_page_token: str


_PAGE_CHARACTERS = 2 * 2**20  # a page stays far below the limit of a message
_table = LedgerEntryRow.metadata.tables["ledger_entry"]
_fields = tuple(_table.c[field.name] for field in fields(LedgerEntry))
_FIND = select(*_fields).where(
    _table.c.task_id == bindparam("task"),
    _table.c.tool == bindparam("called"),
    _table.c.arguments_digest == bindparam("digest"),
    _table.c.state_version == bindparam("version"),
)


def find(
    connection: Connection, task_id: str, tool: str, arguments: str, state_version: str
) -> LedgerEntry | None:
    """The entry of that key, or None. `arguments` in canonical JSON."""
    row = connection.execute(
        _FIND,
        {"task": task_id, "called": tool, "digest": _digest(arguments), "version": state_version},
    ).one_or_none()
    return None if row is None else _entry(row)


def record(connection: Connection, entry: LedgerEntry) -> LedgerEntry:
    """Stores the entry where its key is free, and returns what is stored under the key."""
    connection.execute(
        insert_if_absent(connection, _table),
        asdict(entry)
        | {
            "arguments_digest": _digest(entry.arguments),
            "source": entry.source.value,
            "created_at": now(),
        },
    )
    winner = find(connection, entry.task_id, entry.tool, entry.arguments, entry.state_version)
    assert winner is not None  # noqa: S101 - written above, by us or before us, and never deleted
    return winner


def generated(
    connection: Connection,
    task_id: str,
    tools: Sequence[str],
    state_versions: Sequence[str],
    limit: int,
) -> list[LedgerEntry]:
    """The newest generated entries of these tools at these versions, newest first."""
    query = (
        select(*_fields)
        .where(
            _table.c.task_id == task_id,
            _table.c.tool.in_(tools),
            _table.c.state_version.in_(state_versions),
            _table.c.source == Source.GENERATED.value,
        )
        .order_by(_table.c.ordinal.desc())
        .limit(limit)
    )
    return [_entry(row) for row in connection.execute(query)]


def list_page(
    connection: Connection, task_id: str, *, page_size: int = 100, page_token: str = ""
) -> LedgerPage:
    """The task's entries in order of writing, fewer than `page_size` where they are long.

    Raises NotFound, and InvalidInput for a token that is not ours.
    """
    known = select(TaskRow.metadata.tables["task"].c.task_id).where(
        TaskRow.metadata.tables["task"].c.task_id == task_id
    )
    if connection.execute(known).first() is None:
        raise tasks.not_found(task_id)
    query = (
        select(_table.c.ordinal, *_fields)
        .where(_table.c.task_id == task_id, _table.c.ordinal > place(page_token))
        .order_by(_table.c.ordinal)
        .limit(page_size + 1)
    )
    entries: list[LedgerEntry] = []
    characters, last = 0, 0
    with connection.execute(query) as rows:
        for ordinal, *values in rows:
            entry = _entry(values)
            characters += len(entry.arguments) + len(entry.result)
            if len(entries) == page_size or (entries and characters > _PAGE_CHARACTERS):
                return LedgerPage(tuple(entries), str(last))
            entries.append(entry)
            last = ordinal
    return LedgerPage(tuple(entries), "")


def copy(connection: Connection, from_task_id: str, to_task_id: str) -> int:
    """Gives a task the entries of another with the same world; returns how many were new to it.

    Versions are derived from the world, so sessions of the one can be opened again as the other's.
    A repeat copies only what has come since.
    """
    kept = [
        column.name
        for column in _table.columns
        if column.name not in ("ordinal", "task_id", "created_at")
    ]
    origin = (
        select(literal(to_task_id), literal(now()), *(_table.c[name] for name in kept))
        .where(_table.c.task_id == from_task_id)
        .order_by(_table.c.ordinal)
    )
    statement = insert_if_absent(connection, _table).from_select(
        ["task_id", "created_at", *kept], origin
    )
    return connection.execute(statement).rowcount


def _entry(row: Row[Any] | list[Any]) -> LedgerEntry:
    values = dict(zip((column.name for column in _fields), row, strict=True))
    return LedgerEntry(**values | {"source": Source(values["source"])})


def _digest(arguments: str) -> str:
    return hashlib.sha256(arguments.encode()).hexdigest()
