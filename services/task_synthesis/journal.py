"""What is kept of a synthesis: one row per attempt, written together with the task it gave.

The rows are the whole state of a request, so it goes on from them after any crash, and what became
of it (yield, cost, mix of routes) is a query over them. The first settlement of an attempt stands:
where two servers work on one request, the second finds the first's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import JsonValue
from sqlalchemy import Connection, Row, func, select

from synthagent.llm import Usage
from synthagent.store import tasks
from synthagent.store.first_writer import insert_if_absent
from synthagent.store.pages import place
from synthagent.store.tables import SynthesisItemRow
from synthagent.worlds.spec import Task

_NO_ROUTE = "{}"
_row = SynthesisItemRow.metadata.tables["synthesis_item"]
_USAGE = tuple(_row.c[name] for name in Usage.__dataclass_fields__)
_ATTEMPT = (
    *(_row.c[n] for n in ("attempt", "seed", "task_id", "gate", "reason", "route")),
    *_USAGE,
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt ended: with the identifier of a stored task, or refused and why.

    `gate` names the gate that refused it, or the step of the teacher that gave it up.
    """

    number: int
    seed: int
    task_id: str = ""
    gate: str = ""
    reason: str = ""
    route: Mapping[str, str] = field(default_factory=dict)
    usage: Usage = Usage()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class AttemptPage:
    """A page of attempts; `next_page_token` is empty on the last one."""

    attempts: tuple[Attempt, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class RouteCount:
    """How many attempts were made on a route, and how many of them gave a task."""

    route: Mapping[str, str]
    attempted: int
    admitted: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a request so far."""

    admitted: int
    attempted: int
    rejected: Mapping[str, int]
    usage: Usage
    routes: tuple[RouteCount, ...]


def load(connection: Connection, request_id: str) -> list[Attempt]:
    """The attempts of a request so far, in order, without gaps."""
    rows = connection.execute(
        select(*_ATTEMPT).where(_row.c.request_id == request_id).order_by(_row.c.attempt)
    )
    return [_attempt(row) for row in rows]


def keep(
    connection: Connection, request_id: str, settled: Sequence[tuple[Attempt, Task | None]]
) -> None:
    """Stores attempts and the tasks that they gave, as `settle` does each."""
    for attempt, task in settled:
        settle(connection, request_id, attempt, task)


def settle(
    connection: Connection,
    request_id: str,
    attempt: Attempt,
    task: Task | None,
    product: Mapping[str, JsonValue] | None = None,
) -> Attempt:
    """Stores how an attempt ended, with its task and the teacher's product, unless it is stored.

    Returns the attempt as it is stored. Raises Conflict where the task's identifier is taken.
    """
    inserted = connection.execute(
        insert_if_absent(connection, _row),
        {
            "request_id": request_id,
            "attempt": attempt.number,
            "seed": str(attempt.seed),
            "task_id": attempt.task_id or None,
            "gate": attempt.gate or None,
            "reason": attempt.reason,
            "route": orjson.dumps(attempt.route, option=orjson.OPT_SORT_KEYS).decode(),
            "product": None if product is None else orjson.dumps(product).decode(),
            **{name: getattr(attempt.usage, name) for name in Usage.__dataclass_fields__},
        },
    )
    if not inserted.rowcount:
        mine = (_row.c.request_id == request_id, _row.c.attempt == attempt.number)
        return _attempt(connection.execute(select(*_ATTEMPT).where(*mine)).one())
    if task is not None:
        tasks.put(connection, task)
    return attempt


def list_page(
    connection: Connection, request_id: str, *, page_size: int = 100, page_token: str = ""
) -> AttemptPage:
    """Attempts in order. Raises InvalidInput for a page token that is not ours."""
    rows = connection.execute(
        select(*_ATTEMPT)
        .where(_row.c.request_id == request_id, _row.c.attempt >= place(page_token))
        .order_by(_row.c.attempt)
        .limit(page_size + 1)
    ).all()
    return AttemptPage(
        attempts=tuple(_attempt(row) for row in rows[:page_size]),
        next_page_token=str(rows[page_size][0]) if len(rows) > page_size else "",
    )


def summarize(connection: Connection, request_id: str, not_composed: str) -> Summary:
    """What became of the request; `not_composed` names refusals by no gate."""
    of_request = _row.c.request_id == request_id
    refused = connection.execute(
        select(_row.c.gate, func.count())
        .where(of_request, _row.c.task_id.is_(None))
        .group_by(_row.c.gate)
        .order_by(_row.c.gate)
    )
    rejected = {gate or not_composed: count for gate, count in refused}
    by_route = connection.execute(
        select(_row.c.route, func.count(), func.count(_row.c.task_id))
        .where(of_request)
        .group_by(_row.c.route)
        .order_by(_row.c.route)
    ).all()
    sums = connection.execute(
        select(*(func.coalesce(func.sum(column), 0) for column in _USAGE)).where(of_request)
    ).one()
    return Summary(
        admitted=sum(row[2] for row in by_route),
        attempted=sum(row[1] for row in by_route),
        rejected=rejected,
        usage=_usage(sums),
        routes=tuple(
            RouteCount(orjson.loads(row[0]), row[1], row[2])
            for row in by_route
            if row[0] != _NO_ROUTE
        ),
    )


def _attempt(row: Row[Any]) -> Attempt:
    return Attempt(
        number=row.attempt,
        seed=int(row.seed),
        task_id=row.task_id or "",
        gate=row.gate or "",
        reason=row.reason,
        route=orjson.loads(row.route),
        usage=_usage(row[-len(_USAGE) :]),
    )


def _usage(values: Sequence[Any]) -> Usage:
    calls, prompt_tokens, completion_tokens, cost, seconds = values
    # Sums of integers are decimals in some databases.
    return Usage(int(calls), int(prompt_tokens), int(completion_tokens), cost, seconds)
