"""What is kept of a synthesis: one row per attempt, written together with the task it gave.

The rows are the whole state of a request, so it goes on from them after any crash. Attempts are
deterministic; where two servers work on one request, the second finds the first's rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select
from sqlmodel import col

from synthagent.store import tasks
from synthagent.store.tables import SynthesisItemRow
from synthagent.worlds.spec import Task


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt ended: with the identifier of a stored task, or refused and why."""

    number: int
    seed: int
    task_id: str = ""
    gate: str = ""
    reason: str = ""


def load(connection: Connection, request_id: str) -> list[Attempt]:
    """The attempts of a request so far, in order, without gaps."""
    row = SynthesisItemRow
    rows = connection.execute(
        select(col(row.attempt), col(row.seed), col(row.task_id), col(row.gate), col(row.reason))
        .where(col(row.request_id) == request_id)
        .order_by(col(row.attempt))
    ).all()
    return [Attempt(each[0], int(each[1]), each[2] or "", each[3] or "", each[4]) for each in rows]


def keep(
    connection: Connection, request_id: str, settled: Sequence[tuple[Attempt, Task | None]]
) -> None:
    """Stores attempts and the tasks that they gave. Attempts that are stored are left alone."""
    for attempt, task in settled:
        if task is not None:
            tasks.put(connection, task)
        stored = connection.execute(
            select(col(SynthesisItemRow.attempt)).where(
                col(SynthesisItemRow.request_id) == request_id,
                col(SynthesisItemRow.attempt) == attempt.number,
            )
        ).first()
        if stored is None:
            connection.execute(
                insert(SynthesisItemRow),
                {
                    "request_id": request_id,
                    "attempt": attempt.number,
                    "seed": str(attempt.seed),
                    "task_id": attempt.task_id or None,
                    "gate": attempt.gate or None,
                    "reason": attempt.reason,
                },
            )
