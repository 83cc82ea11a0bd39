"""What the database holds of some runs, read once: what `invariants.py` judges."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import orjson
from sqlalchemy import Connection, Row, select

from synthagent.store.tables import (
    BatchRow,
    EpisodeRow,
    EventRow,
    GroupRow,
    RequestRow,
    RunRow,
    SynthesisItemRow,
    TaskRow,
)

_run = RunRow.metadata.tables["run"]
_group = GroupRow.metadata.tables["episode_group"]
_episode = EpisodeRow.metadata.tables["episode"]
_event = EventRow.metadata.tables["event"]
_batch = BatchRow.metadata.tables["batch"]
_request = RequestRow.metadata.tables["request"]
_task = TaskRow.metadata.tables["task"]
_item = SynthesisItemRow.metadata.tables["synthesis_item"]

REPLY, JUDGE = "UserSimulator.Reply", "RubricJudge.Judge"
"""Methods whose answers an episode's log and verdict are made of."""


class LoggedEvent(NamedTuple):
    """A row of an episode's log; `body` is the event's JSON."""

    sequence: int
    kind: str
    body: str


AnyRow = Row[tuple[Any, ...]]


@dataclass(frozen=True)
class Evidence:
    """Rows as they are, by what they belong to."""

    runs: Mapping[str, AnyRow]
    groups: Mapping[str, Sequence[AnyRow]]
    """By run, in order of their ordinals."""
    episodes: Mapping[str, Sequence[AnyRow]]
    """By run."""
    logs: Mapping[str, Sequence[LoggedEvent]]
    """By episode, in order of the sequence."""
    batches: Mapping[tuple[str, int], Sequence[str]]
    """Trajectories by run and step."""
    answers: Mapping[tuple[str, str], bytes]
    """Answers of REPLY and JUDGE by method and request_id."""
    synthesized: Sequence[tuple[str, str]]
    """Request and task of each attempt of a synthesis that was admitted."""
    tasks_digest: str

    @classmethod
    def read(cls, connection: Connection) -> Self:
        """Everything, in the connection's transaction."""
        groups: dict[str, list[AnyRow]] = defaultdict(list)
        for row in connection.execute(select(_group).order_by(_group.c.step, _group.c.ordinal)):
            groups[row.run_id].append(row)
        episodes: dict[str, list[AnyRow]] = defaultdict(list)
        for row in connection.execute(select(_episode).order_by(_episode.c.trajectory_id)):
            episodes[row.run_id].append(row)
        logs: dict[str, list[LoggedEvent]] = defaultdict(list)
        events = select(_event.c.trajectory_id, _event.c.sequence, _event.c.kind, _event.c.body)
        for row in connection.execute(events.order_by(_event.c.trajectory_id, _event.c.sequence)):
            logs[row.trajectory_id].append(LoggedEvent(row.sequence, row.kind, row.body))
        answered = select(_request).where(_request.c.method.in_((REPLY, JUDGE)))
        admitted = select(_item.c.request_id, _item.c.task_id).where(_item.c.task_id.is_not(None))
        return cls(
            runs={row.run_id: row for row in connection.execute(select(_run))},
            groups=groups,
            episodes=episodes,
            logs=logs,
            batches={
                (row.run_id, row.step): orjson.loads(row.trajectory_ids)
                for row in connection.execute(select(_batch))
            },
            answers={
                (row.method, row.request_id): row.response or b""
                for row in connection.execute(answered)
            },
            synthesized=[(row.request_id, row.task_id) for row in connection.execute(admitted)],
            tasks_digest=tasks_digest(connection),
        )


def tasks_digest(connection: Connection) -> str:
    """SHA-256 over every task that is stored: its identifier, digest and body."""
    chosen = select(_task.c.task_id, _task.c.digest, _task.c.body, _task.c.draft)
    whole = hashlib.sha256()
    for row in connection.execute(chosen.order_by(_task.c.task_id)):
        whole.update(orjson.dumps(list(row)))
    return whole.hexdigest()
