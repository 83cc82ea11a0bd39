"""Answers of model servers, kept so that a repeated call gives the same again.

The first writer of a key wins, whatever replica it came from. Only answers are kept, never errors.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, select

from synthagent.store.database import now
from synthagent.store.first_writer import insert_if_absent
from synthagent.store.tables import ModelResponseRow


@dataclass(frozen=True, slots=True)
class Cost:
    """What the answers of an account cost when they were made."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    seconds: float


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """An answer, and what it cost when it was made."""

    response: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    seconds: float


_response = ModelResponseRow.metadata.tables["model_response"]
_FIND = select(*(_response.c[name] for name in StoredResponse.__dataclass_fields__)).where(
    _response.c.role == bindparam("of"), _response.c.key == bindparam("by")
)


def find(connection: Connection, role: str, key: str) -> StoredResponse | None:
    """The answer under a key (64 hexadecimal digits), or None."""
    row = connection.execute(_FIND, {"of": role, "by": key}).one_or_none()
    return None if row is None else StoredResponse(*row)


def put(
    connection: Connection, role: str, key: str, response: StoredResponse, account: str = ""
) -> StoredResponse:
    """Keeps an answer where the key has none, and returns the one that is kept under it.

    `account` is what it was asked for.
    """
    inserted = connection.execute(
        insert_if_absent(connection, _response),
        {
            "role": role,
            "key": key,
            **{name: getattr(response, name) for name in StoredResponse.__dataclass_fields__},
            "account": account,
            "created_at": now(),
        },
    )
    if inserted.rowcount:
        return response
    return find(connection, role, key) or response


def cost_of(connection: Connection, account: str) -> Cost:
    """The sum of what was first asked for that account, by every role and service."""
    sums = (func.coalesce(func.sum(_response.c[name]), 0) for name in Cost.__dataclass_fields__)
    row = connection.execute(select(*sums).where(_response.c.account == account)).one()
    return Cost(int(row[0]), int(row[1]), int(row[2]), float(row[3]), float(row[4]))
