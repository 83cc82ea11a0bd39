"""One item of a model synthesis, from its route to a task that awaits only the novelty gate.

    draft by the teacher -> stored, attempted, rubric -> stored under its final identifier with the
    ledger of the attempts, judged by it, kept or not

Everything is keyed by (request, number of the item): an item that was cut off is made again, its
model calls are answered from the response store, and its runs and judgements are found. A draft
that came to nothing stays stored as a draft, so that its trajectories can be explained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue
from sqlalchemy import Connection

from services.task_synthesis.attempting import Attempts, fault_of
from services.task_synthesis.routes import Targets
from services.task_synthesis.teacher import (
    Attempt,
    Draft,
    ModelTeacher,
    Rejected,
    Route,
    ToolKind,
)
from services.task_synthesis.teacher.attempts import solves
from synthagent.errors import ModelFault
from synthagent.llm import Usage, metered
from synthagent.store import Store, ledger, tasks
from synthagent.worlds.spec import Persona, Split, Task

MODEL_FAULT = "model_fault"
"""Stands for a step where a model's answers were of no use."""


@dataclass(frozen=True, slots=True)
class ModelOrder:
    """What a request asks of the model teacher; fields as in `ModelTeacher` of task.proto."""

    request_id: str
    count: int
    split: Split
    seed: int
    tool_kind: ToolKind
    attempts: int
    min_solutions: int
    persona_set: str
    targets: Targets
    repairs: int
    items_per_task: int


@dataclass(frozen=True, slots=True)
class Item:
    """What an item is to become."""

    number: int
    route: Mapping[str, str]
    persona: Persona


@dataclass(frozen=True, slots=True)
class Made:
    """How an item ended: with a certified task, or given up by a step and why."""

    task: Task | None
    product: Mapping[str, JsonValue]
    usage: Usage
    rejected_by: str = ""
    reason: str = ""


class ItemMaker:
    """Makes items with one teacher, any number at the same time."""

    def __init__(self, store: Store, teacher: ModelTeacher, attempts: Attempts) -> None:
        self._store = store
        self._teacher = teacher
        self._attempts = attempts

    async def make(self, order: ModelOrder, item: Item) -> Made:
        """How the item ends.

        Raises BackendUnavailable where a model server or a service is out of reach: that says
        nothing about the item.
        """
        making = _Making(self._store, self._teacher, self._attempts, order, item)
        persona: dict[str, JsonValue] = {"persona": item.persona.model_dump(mode="json")}
        with metered() as meter:
            try:
                draft = await making.complete()
                made = Made(draft.task, persona | dict(draft.product), Usage())
            except Rejected as end:
                product = persona | end.product
                made = Made(None, product, Usage(), end.rejected_by, end.reason)
            except ModelFault as fault:
                made = Made(None, persona, Usage(), MODEL_FAULT, fault.message)
        return replace(made, usage=meter.usage + await making.cost_of_attempts())


class _Making:
    """One item in the making."""

    def __init__(
        self,
        store: Store,
        teacher: ModelTeacher,
        attempts: Attempts,
        order: ModelOrder,
        item: Item,
    ) -> None:
        self._store = store
        self._teacher = teacher
        self._attempts = attempts
        self._order = order
        self._item = item
        self._key = f"{order.request_id}/{item.number}"
        self._attempted = ""  # identifier of the draft

    async def complete(self) -> Draft:
        """The certified task. Raises Rejected, ModelFault, BackendUnavailable."""
        order = self._order
        draft = await self._teacher.draft(
            Route(**self._item.route),
            self._item.persona,
            order.split,
            key=self._key,
            tool_kind=order.tool_kind,
            repairs=order.repairs,
        )
        if draft.complete:
            return draft
        played = await self._play(draft.task)
        usable = [attempt for attempt in played if not fault_of(attempt)]
        if len(usable) < order.min_solutions:
            raise _decided_by_faults(played)
        finished = await self._teacher.finish(draft, usable, key=self._key, repairs=order.repairs)
        await self._store.write(lambda c: _put_finished(c, draft.task, finished.task))
        judged = await self._attempts.judge(finished.task.task_id, usable, key=self._key)
        faulty = [attempt for attempt in (*played, *judged) if fault_of(attempt)]
        solved = sum(solves(finished.task, attempt) for attempt in judged)
        if solved < order.min_solutions <= solved + len(faulty):
            raise _decided_by_faults(faulty)
        return await self._teacher.keep(
            finished, judged, key=self._key, min_solutions=order.min_solutions
        )

    async def cost_of_attempts(self) -> Usage:
        """What models used for attempts so far, in whatever role and service."""
        if not self._attempted:
            return Usage()
        return await self._attempts.cost(self._attempted, key=self._key)

    async def _play(self, draft: Task) -> list[Attempt]:
        await self._store.write(lambda c: tasks.put(c, draft, draft=True))
        self._attempted = draft.task_id
        return await self._attempts.play(
            draft.task_id, key=self._key, attempts=self._order.attempts
        )


def _put_finished(connection: Connection, draft: Task, finished: Task) -> None:
    """Stores the final task, still as a draft, with what its tools answered in the attempts."""
    tasks.put(connection, finished, draft=True)
    ledger.copy(connection, draft.task_id, finished.task_id)


def _decided_by_faults(attempts: Sequence[Attempt]) -> ModelFault:
    faults = [fault for attempt in attempts if (fault := fault_of(attempt))]
    return ModelFault(
        f"Faults decided on {len(faults)} attempts, so nobody knows what they were worth; "
        f"the first: {faults[0]}"
    )
