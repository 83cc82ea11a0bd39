"""Idempotency: a mutation with a request_id that was answered gets the same answer again.

The answer is stored as the response's bytes under (method, request_id) with the digest of the
request. In one process concurrent repeats wait for the first; between processes the first to store
its answer wins and the loser returns the winner's.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message
from sqlalchemy import Connection, bindparam, select

from synthagent.errors import InvalidInput, RequestIdReused
from synthagent.store.database import Store, now
from synthagent.store.first_writer import insert_if_absent
from synthagent.store.tables import RequestRow

M = TypeVar("M", bound=Message)

# Built once: it runs with every reply and verdict.
_request = RequestRow.metadata.tables["request"]
_FIND = select(_request.c.request_digest, _request.c.response).where(
    _request.c.method == bindparam("by"), _request.c.request_id == bindparam("id")
)


def digest(request: Message) -> str:
    """SHA-256 of a request's content, in hexadecimal."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()


def check_request_id(request_id: str) -> None:
    """Raises InvalidInput where it is no request_id: 1 to 64 characters."""
    if not 1 <= len(request_id) <= 64:
        raise InvalidInput(
            f"request_id has {len(request_id)} characters; give one of 1 to 64.",
            field="request_id",
        )


def find(connection: Connection, method: str, request_id: str, request: Message) -> bytes | None:
    """The stored answer's bytes, or None where the request was not answered yet.

    An answer that is stored elsewhere (a stream) is b"". Raises RequestIdReused where the
    request_id came before with other content.
    """
    row = connection.execute(_FIND, {"by": method, "id": request_id}).one_or_none()
    if row is None:
        return None
    if row[0] != digest(request):
        raise _reused(method, request_id)
    return row[1] or b""


def answer(connection: Connection, method: str, request_id: str) -> bytes | None:
    """The bytes stored with an answered request, whatever it asked; None where there is none."""
    row = connection.execute(_FIND, {"by": method, "id": request_id}).one_or_none()
    return None if row is None else row[1] or b""


def record(
    connection: Connection,
    method: str,
    request_id: str,
    request: Message,
    response: Message | None,
) -> bytes | None:
    """Stores an answer, None for a stream that is stored elsewhere, where there is none yet.

    Returns what `find` gives of an earlier one, which then stands; None where this one was stored.
    Raises RequestIdReused where the request_id came before with other content.
    """
    inserted = connection.execute(
        insert_if_absent(connection, _request),
        {
            "method": method,
            "request_id": request_id,
            "request_digest": digest(request),
            "response": None if response is None else response.SerializeToString(),
            "created_at": now(),
        },
    )
    return None if inserted.rowcount else find(connection, method, request_id, request)


async def once(
    store: Store,
    method: str,
    request_id: str,
    request: Message,
    *,
    response_type: type[M],
    compute: Callable[[], Awaitable[M]],
) -> M:
    """The stored answer, or that of `compute`, stored before it is returned.

    Nothing is stored where `compute` raises, so a repeat tries again. What `compute` itself stores
    must be keyed by content or request_id: after a crash between the two it runs again.

    Raises InvalidInput (request_id), RequestIdReused, and what `compute` raises.
    """
    check_request_id(request_id)
    key = (method, request_id)
    wanted = digest(request)
    while running := store.requests_running.get(key):
        if running[0] != wanted:
            raise _reused(method, request_id)
        # The first may fail or be cancelled; then this one looks again and computes itself.
        await asyncio.wait([running[1]])
    ended = asyncio.get_running_loop().create_future()
    store.requests_running[key] = (wanted, ended)
    try:
        stored = await store.read(lambda c: find(c, method, request_id, request))
        if stored is not None:
            return response_type.FromString(stored)
        response = await compute()
        earlier = await store.write(lambda c: record(c, method, request_id, request, response))
        return response if earlier is None else response_type.FromString(earlier)
    finally:
        del store.requests_running[key]
        ended.set_result(None)


def _reused(method: str, request_id: str) -> RequestIdReused:
    return RequestIdReused(
        f"request_id {request_id!r} was used before with other content; choose a new one.",
        field="request_id",
        method=method,
        request_id=request_id,
    )
