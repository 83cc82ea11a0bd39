"""Certified tasks: stored, listed and handed out ready to run.

Only tasks with a passing certificate are stored. `TaskCache` is the one door by which services get
a task to act on: it verifies the certificate and compiles the world once, and keeps both.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, fields

from sqlalchemy import Connection, select, update
from sqlmodel import col

from synthagent.errors import Conflict, Corrupt, NotFound, Uncertified
from synthagent.store.database import Store, now
from synthagent.store.first_writer import insert_if_absent
from synthagent.store.pages import place
from synthagent.store.tables import TaskRow
from synthagent.worlds.certificate import verify
from synthagent.worlds.content import task_digest
from synthagent.worlds.engine import WorldImage, compile_world
from synthagent.worlds.spec import Split, Task


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """A task in a listing."""

    task_id: str
    split: Split
    domain: str
    difficulty: str
    instruction: str
    tool_count: int
    fact_count: int
    gold_step_count: int
    teacher: str


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A page of a listing; `next_page_token` is empty on the last one."""

    tasks: tuple[TaskSummary, ...]
    next_page_token: str


_task = TaskRow.metadata.tables["task"]
_LISTED = tuple(
    _task.c[name] for name in ("ordinal", *(field.name for field in fields(TaskSummary)))
)


def put(connection: Connection, task: Task, *, draft: bool = False) -> bool:
    """Stores a certified task; returns False where the same task was stored before.

    A task that is stored again brings its new certificate, as after a change of the engine; a draft
    that is stored again as no draft is admitted. A task that was admitted stays as it is when it
    comes again as a draft, which lacks the last gate. Raises Conflict where its identifier is taken
    by another task.
    """
    digest, body = task_digest(task), task.model_dump_json()
    inserted = connection.execute(
        insert_if_absent(connection, _task),
        {
            "task_id": task.task_id,
            "split": task.split.value,
            "domain": task.domain,
            "difficulty": task.difficulty,
            "instruction": task.instruction,
            "tool_count": len(task.world.tools),
            "fact_count": len(task.facts),
            "gold_step_count": len(task.gold_plans[0].steps) if task.gold_plans else 0,
            "digest": digest,
            "body": body,
            "admitted_at": now(),
            "teacher": task.teacher,
            "draft": draft,
        },
    )
    if inserted.rowcount:
        return True
    stored = connection.execute(
        select(col(TaskRow.digest)).where(col(TaskRow.task_id) == task.task_id)
    ).scalar_one()
    if stored != digest:
        raise Conflict(
            f"task_id {task.task_id!r} is taken by another task; give this one another.",
            task_id=task.task_id,
        )
    same = update(TaskRow).where(col(TaskRow.task_id) == task.task_id)
    replaced = same.where(col(TaskRow.draft)) if draft else same
    connection.execute(replaced.values(body=body, draft=draft))
    return False


def get(connection: Connection, task_id: str) -> Task:
    """The task of that identifier. Raises NotFound; Corrupt where its row cannot be read."""
    body = connection.execute(
        select(col(TaskRow.body)).where(col(TaskRow.task_id) == task_id)
    ).scalar_one_or_none()
    if body is None:
        raise not_found(task_id)
    try:
        return Task.model_validate_json(body)
    except ValueError as error:
        raise Corrupt(
            f"The stored task {task_id!r} is damaged; restore the database.", task_id=task_id
        ) from error


def list_page(
    connection: Connection,
    *,
    page_size: int = 100,
    page_token: str = "",
    split: Split | None = None,
    domain: str = "",
    difficulty: str = "",
) -> TaskPage:
    """Summaries in order of admission. Raises InvalidInput for a page token that is not ours."""
    query = select(*_LISTED).where(col(TaskRow.ordinal) > place(page_token), ~col(TaskRow.draft))
    if split is not None:
        query = query.where(col(TaskRow.split) == split.value)
    if domain:
        query = query.where(col(TaskRow.domain) == domain)
    if difficulty:
        query = query.where(col(TaskRow.difficulty) == difficulty)
    rows = connection.execute(query.order_by(col(TaskRow.ordinal)).limit(page_size + 1)).all()
    page = rows[:page_size]
    return TaskPage(
        tasks=tuple(TaskSummary(row[1], Split(row[2]), *row[3:]) for row in page),
        next_page_token=str(page[-1][0]) if len(rows) > page_size else "",
    )


def not_found(task_id: str) -> NotFound:
    """The error for a task that is not stored."""
    return NotFound(
        f"There is no task {task_id!r}; synthesize or import it first.",
        field="task_id",
        task_id=task_id,
    )


class TaskCache:
    """Certified tasks with their compiled worlds, the least recently used dropped first."""

    def __init__(self, store: Store, size: int = 1024) -> None:
        self._store = store
        self._size = size
        self._entries: OrderedDict[str, tuple[Task, WorldImage]] = OrderedDict()
        self._loading: dict[str, asyncio.Task[tuple[Task, WorldImage]]] = {}

    async def get_certified(self, task_id: str) -> tuple[Task, WorldImage]:
        """The task and its world, verified and compiled.

        Raises NotFound, Uncertified (no certificate, a failed one, or one of another content or
        engine), Corrupt.
        """
        entry = self._entries.get(task_id)
        if entry is not None:
            self._entries.move_to_end(task_id)
            return entry
        loading = self._loading.get(task_id)
        if loading is None:
            loading = asyncio.create_task(self._load(task_id))
            self._loading[task_id] = loading
            loading.add_done_callback(lambda _: self._loading.pop(task_id))
        return await asyncio.shield(loading)

    async def _load(self, task_id: str) -> tuple[Task, WorldImage]:
        entry = await self._store.read(lambda connection: _load_certified(connection, task_id))
        self._entries[task_id] = entry
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return entry


def _load_certified(connection: Connection, task_id: str) -> tuple[Task, WorldImage]:
    task = get(connection, task_id)
    try:
        verify(task)
    except ValueError as error:
        raise Uncertified(
            f"Task {task_id!r} cannot be run: {error}. Import it again to certify it.",
            task_id=task_id,
        ) from error
    return task, compile_world(task.world)
