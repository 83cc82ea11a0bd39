"""Batches: what each step of a run trains on.

Functions take a Core connection and are given to `Store.read` or `Store.write`. A batch row is
written once, by whoever comes first, and never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import ColumnElement, Connection, Table, func, select

from synthagent.store.database import now
from synthagent.store.episodes import EpisodeState
from synthagent.store.first_writer import insert_if_absent
from synthagent.store.tables import BatchRow, EpisodeRow, EventRow, GroupRow, SegmentRow

_batch = BatchRow.metadata.tables["batch"]
_episode = EpisodeRow.metadata.tables["episode"]
_event = EventRow.metadata.tables["event"]
_group = GroupRow.metadata.tables["episode_group"]
_segment = SegmentRow.metadata.tables["segment"]


@dataclass(frozen=True)
class Weight:
    """An episode of a step: whether it has ended, and its tokens and events."""

    trajectory_id: str
    group_id: str
    ended: bool
    tokens: int
    events: int


def weights(connection: Connection, run_id: str, step: int) -> list[Weight]:
    """The episodes of a step in batch order: by group, then index."""
    mine = (_group.c.run_id == run_id, _group.c.step == step)
    tokens = _totals(connection, _segment, func.sum(func.length(_segment.c.token_ids)) // 4, mine)
    events = _totals(connection, _event, func.count(), mine)
    statement = (
        select(_episode.c.trajectory_id, _episode.c.group_id, _episode.c.state)
        .join(_group, _group.c.group_id == _episode.c.group_id)
        .where(*mine)
        .order_by(_group.c.ordinal, _episode.c.group_index)
    )
    return [
        Weight(
            trajectory_id=row.trajectory_id,
            group_id=row.group_id,
            ended=row.state == EpisodeState.ENDED.value,
            tokens=tokens.get(row.trajectory_id, 0),
            events=events.get(row.trajectory_id, 0),
        )
        for row in connection.execute(statement)
    ]


def _totals(
    connection: Connection,
    table: Table,
    total: ColumnElement[int],
    mine: tuple[ColumnElement[bool], ...],
) -> dict[str, int]:
    """A total over the rows that each episode of a step has in a table."""
    statement = (
        select(table.c.trajectory_id, total.label("total"))
        .join(_episode, _episode.c.trajectory_id == table.c.trajectory_id)
        .join(_group, _group.c.group_id == _episode.c.group_id)
        .where(*mine)
        .group_by(table.c.trajectory_id)
    )
    return {row.trajectory_id: int(row.total) for row in connection.execute(statement)}


def waiting(connection: Connection, run_id: str, step: int) -> int:
    """How many episodes of a step have not ended."""
    statement = (
        select(func.count())
        .select_from(_episode)
        .join(_group, _group.c.group_id == _episode.c.group_id)
        .where(
            _group.c.run_id == run_id,
            _group.c.step == step,
            _episode.c.state != EpisodeState.ENDED.value,
        )
    )
    return int(connection.execute(statement).scalar_one())


def batch(connection: Connection, run_id: str, step: int) -> tuple[str, ...] | None:
    """The trajectories of the step's batch in batch order, or None where none was made yet."""
    text = connection.execute(
        select(_batch.c.trajectory_ids).where(_batch.c.run_id == run_id, _batch.c.step == step)
    ).scalar()
    return None if text is None else tuple(orjson.loads(text))


def create_batch(
    connection: Connection, run_id: str, step: int, batch_id: str, trajectory_ids: Sequence[str]
) -> None:
    """Makes the step's batch where there is none yet: the first writer wins."""
    connection.execute(
        insert_if_absent(connection, _batch),
        {
            "run_id": run_id,
            "step": step,
            "batch_id": batch_id,
            "trajectory_ids": orjson.dumps(list(trajectory_ids)).decode(),
            "created_at": now(),
        },
    )
