"""Certifies and stores tasks that were made elsewhere.

A given certificate counts for nothing: every gate runs again. The novelty gate compares with the
evaluation items and with every task that is stored under another identifier. A domain belongs to
one split, so that nothing held out is trained on. One bad task never stops the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, select
from sqlmodel import col

from services.task_synthesis import routes
from services.task_synthesis.admission import admit_novel, new_index
from services.task_synthesis.examine import Examined, certify_given
from services.task_synthesis.workers import Workers
from synthagent.errors import Conflict
from synthagent.metrics import ServerMetrics
from synthagent.store import Store, tasks
from synthagent.store.tables import TaskRow
from synthagent.worlds.certify import Rejected
from synthagent.worlds.compose import domains
from synthagent.worlds.content import task_digest
from synthagent.worlds.novelty import NoveltyIndex
from synthagent.worlds.spec import Gate, Split, Task

_CERTIFIED_AT_ONCE = 8
_READ_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a task was not stored; `gate` is None where its identifier or domain is taken."""

    gate: Gate | None
    reason: str


class Importer:
    """Imports tasks, one request after the other. Keeps an index of all stored tasks."""

    def __init__(
        self,
        store: Store,
        workers: Workers,
        metrics: ServerMetrics,
        evaluation_items: Path | None = None,
    ) -> None:
        self._store = store
        self._workers = workers
        self._metrics = metrics
        self._evaluation_items = evaluation_items
        self._index: NoveltyIndex | None = None
        self._indexed: set[int] = set()  # ordinals
        self._lock = asyncio.Lock()

    async def import_tasks(self, given: Sequence[Task]) -> list[Refused | None]:
        """Stores what passes; for each task, in order, None or why it was not stored."""
        bare = [task.model_copy(update={"certificate": None}) for task in given]
        examined = await self._certify(bare)
        outcomes: list[Refused | None] = []
        async with self._lock:
            index = await self._current_index()
            for task, result in zip(bare, examined, strict=True):
                outcomes.append(await self._admit(task, result, index))
        for task, outcome in zip(bare, outcomes, strict=True):
            if outcome is None:
                self._metrics.tasks_admitted.labels(task.split.value).inc()
            elif outcome.gate is not None:
                self._metrics.tasks_rejected.labels(outcome.gate.value).inc()
        return outcomes

    async def _certify(self, given: Sequence[Task]) -> list[Examined]:
        bodies = [task.model_dump_json().encode() for task in given]
        jobs = [
            self._workers.submit(certify_given, bodies[start : start + _CERTIFIED_AT_ONCE])
            for start in range(0, len(bodies), _CERTIFIED_AT_ONCE)
        ]
        return [each for job in jobs for each in await self._workers.result(job)]

    async def _admit(self, task: Task, result: Examined, index: NoveltyIndex) -> Refused | None:
        if result.task is None:
            return Refused(Gate(result.gate), result.reason)
        other = await self._store.read(lambda c: _split_of_domain(c, task))
        if other is not None and other is not task.split:
            reason = f"domain {task.domain!r} belongs to the split {other.value}; splits share none"
            return Refused(None, reason)
        stored = await self._store.read(lambda c: _stored_digest(c, task.task_id))
        if stored is not None and stored != task_digest(task):
            return Refused(None, f"task_id {task.task_id!r} is taken by another task")
        try:
            certified = await asyncio.to_thread(
                admit_novel, Task.model_validate_json(result.task), index
            )
            await self._store.write(lambda c: tasks.put(c, certified))
        except Rejected as rejected:
            return Refused(rejected.gate, rejected.reason)
        except Conflict as conflict:
            return Refused(None, conflict.message)
        return None

    async def _current_index(self) -> NoveltyIndex:
        """The index with every task that was admitted since it was last used; drafts are none."""
        if self._index is None:
            self._index = await asyncio.to_thread(new_index, self._evaluation_items)
        new = sorted(set(await self._store.read(_admitted)) - self._indexed)
        for start in range(0, len(new), _READ_AT_ONCE):
            some = new[start : start + _READ_AT_ONCE]
            for body in await self._store.read(partial(_bodies, some)):
                await asyncio.to_thread(self._index.add, Task.model_validate_json(body))
            self._indexed.update(some)
        return self._index


def _stored_digest(connection: Connection, task_id: str) -> str | None:
    found = connection.execute(select(col(TaskRow.digest)).where(col(TaskRow.task_id) == task_id))
    digest: str | None = found.scalar_one_or_none()
    return digest


def _split_of_domain(connection: Connection, task: Task) -> Split | None:
    """The split that the task's domain belongs to, by our data files or the tasks stored first."""
    for split in Split:
        if task.domain in domains(split) or task.domain in routes.domains(split):
            return split
    found = connection.execute(
        select(col(TaskRow.split))
        .where(col(TaskRow.domain) == task.domain)
        .order_by(col(TaskRow.ordinal))
        .limit(1)
    ).scalar_one_or_none()
    return None if found is None else Split(found)


def _admitted(connection: Connection) -> list[int]:
    """The ordinals of all tasks that are no drafts; a draft may have become one since."""
    found = connection.execute(select(col(TaskRow.ordinal)).where(~col(TaskRow.draft)))
    return [ordinal or 0 for ordinal in found.scalars()]


def _bodies(ordinals: Sequence[int], connection: Connection) -> list[str]:
    rows = connection.execute(
        select(col(TaskRow.body))
        .where(col(TaskRow.ordinal).in_(ordinals))
        .order_by(col(TaskRow.ordinal))
    )
    return list(rows.scalars())
