"""Runs with their groups, and the published policies.

Functions take a Core connection and are given to `Store.read` or `Store.write`. A run leaves
RUNNING once and for good (`RUN_TRANSITIONS`). A group row and its episodes are written together
when their step is admitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import orjson
from sqlalchemy import Connection, Row, func, select, update

from synthagent.store.database import now
from synthagent.store.first_writer import insert_if_absent
from synthagent.store.tables import EpisodeRow, GroupRow, PolicyRow, RunRow, TaskRow

_PARAMETERS = 10_000  # of one statement; SQLite takes 32,766
_task = TaskRow.metadata.tables["task"]
_run = RunRow.metadata.tables["run"]
_group = GroupRow.metadata.tables["episode_group"]
_episode = EpisodeRow.metadata.tables["episode"]
_policy = PolicyRow.metadata.tables["policy"]


class RunState(StrEnum):
    """State of a run."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"


RUN_TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    RunState.RUNNING: frozenset({RunState.SUCCEEDED, RunState.CANCELLED}),
    RunState.SUCCEEDED: frozenset(),
    RunState.CANCELLED: frozenset(),
}


@dataclass(frozen=True)
class StoredRun:
    """A run as it is kept. `spec` is the specification as canonical JSON."""

    run_id: str
    spec: str
    spec_digest: str
    task_ids: tuple[str, ...]
    state: RunState
    created_at: int
    ordinal: int = 0


@dataclass(frozen=True)
class StoredGroup:
    """A group: the rollouts of one task at one step."""

    group_id: str
    run_id: str
    step: int
    ordinal: int
    task_id: str


@dataclass(frozen=True)
class StoredPolicy:
    """A published version of a policy's weights."""

    policy: str
    version: int
    weights_path: str
    weights_sha256: str


@dataclass(frozen=True)
class Progress:
    """How far a run's admitted episodes are. Rewards are of ended, valid episodes."""

    ended: int
    invalid: int
    mean_reward: float
    reward_sem: float
    policy_tokens: int


def create(connection: Connection, run: StoredRun) -> StoredRun:
    """Stores the run where its identifier is free, and returns what is stored under it."""
    connection.execute(
        insert_if_absent(connection, _run),
        {
            "run_id": run.run_id,
            "spec": run.spec,
            "spec_digest": run.spec_digest,
            "task_ids": orjson.dumps(run.task_ids).decode(),
            "state": run.state.value,
            "created_at": run.created_at,
        },
    )
    stored = get(connection, run.run_id)
    assert stored is not None  # noqa: S101 - this transaction has just written it
    return stored


def get(connection: Connection, run_id: str) -> StoredRun | None:
    """The run of that identifier, or None."""
    row = connection.execute(select(_run).where(_run.c.run_id == run_id)).one_or_none()
    return _stored(row) if row else None


def in_state(connection: Connection, state: RunState) -> list[StoredRun]:
    """The runs in that state, oldest first."""
    statement = select(_run).where(_run.c.state == state.value).order_by(_run.c.ordinal)
    return [_stored(row) for row in connection.execute(statement)]


def page(connection: Connection, before: int | None, limit: int) -> list[StoredRun]:
    """Up to `limit` runs older than ordinal `before` (None: than all), newest first."""
    statement = select(_run).order_by(_run.c.ordinal.desc()).limit(limit)
    if before is not None:
        statement = statement.where(_run.c.ordinal < before)
    return [_stored(row) for row in connection.execute(statement)]


def change_state(connection: Connection, run_id: str, state: RunState) -> bool:
    """Moves the run to `state` where `RUN_TRANSITIONS` allow it; returns whether it moved."""
    sources = [source.value for source, targets in RUN_TRANSITIONS.items() if state in targets]
    changed = connection.execute(
        update(_run)
        .where(_run.c.run_id == run_id, _run.c.state.in_(sources))
        .values(state=state.value, ended_at=now())
    )
    return changed.rowcount == 1


def progress(connection: Connection, run_id: str) -> Progress:
    """Counts and reward statistics of the run's episodes."""
    mine = _episode.c.run_id == run_id
    ended, invalid, tokens = connection.execute(
        select(
            func.count(_episode.c.completion),
            func.count(_episode.c.invalid_reason),
            func.coalesce(func.sum(_episode.c.policy_tokens), 0),
        ).where(mine)
    ).one()
    count, mean = connection.execute(
        select(func.count(_episode.c.reward), func.avg(_episode.c.reward)).where(mine)
    ).one()
    sem = 0.0
    if count > 1:
        deviation = _episode.c.reward - mean
        squares = connection.execute(select(func.sum(deviation * deviation)).where(mine)).scalar()
        sem = float((squares / (count - 1) / count) ** 0.5)
    return Progress(int(ended), int(invalid), float(mean or 0.0), sem, int(tokens))


def tasks_of(connection: Connection, split: str, difficulty: str) -> list[str]:
    """The admitted tasks of a split and, where not empty, a difficulty, in order of admission."""
    statement = (
        select(_task.c.task_id)
        .where(_task.c.split == split, ~_task.c.draft)
        .order_by(_task.c.ordinal)
    )
    if difficulty:
        statement = statement.where(_task.c.difficulty == difficulty)
    return [row.task_id for row in connection.execute(statement)]


def splits_of(connection: Connection, task_ids: Sequence[str]) -> dict[str, str]:
    """The split of each of these tasks that is stored."""
    splits: dict[str, str] = {}
    for start in range(0, len(task_ids), _PARAMETERS):
        chosen = task_ids[start : start + _PARAMETERS]
        statement = select(_task.c.task_id, _task.c.split).where(_task.c.task_id.in_(chosen))
        splits.update((row.task_id, row.split) for row in connection.execute(statement))
    return splits


def without_plan(connection: Connection, task_ids: Sequence[str]) -> str:
    """One of these tasks that has no gold plan; "" where all have one."""
    for start in range(0, len(task_ids), _PARAMETERS):
        chosen = task_ids[start : start + _PARAMETERS]
        statement = (
            select(_task.c.task_id)
            .where(_task.c.task_id.in_(chosen), _task.c.gold_step_count == 0)
            .limit(1)
        )
        found = connection.execute(statement).scalar_one_or_none()
        if found is not None:
            return str(found)
    return ""


def admit(
    connection: Connection,
    groups: Sequence[StoredGroup],
    episodes: Sequence[Mapping[str, object]],
) -> None:
    """Writes groups and their pending episodes; those already there stay as they are."""
    rows = [vars(group) for group in groups]
    connection.execute(insert_if_absent(connection, _group), rows)
    connection.execute(insert_if_absent(connection, _episode), list(episodes))


def admitted_steps(connection: Connection, run_id: str) -> int:
    """How many steps of the run have been admitted; steps are admitted in order."""
    last = connection.execute(
        select(func.max(_group.c.step)).where(_group.c.run_id == run_id)
    ).scalar()
    return 0 if last is None else int(last) + 1


def latest_policy(connection: Connection, policy: str) -> StoredPolicy | None:
    """The newest published version of that policy, or None where none was published."""
    row = connection.execute(
        select(_policy)
        .where(_policy.c.policy == policy)
        .order_by(_policy.c.version.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    return StoredPolicy(row.policy, row.version, row.weights_path, row.weights_sha256)


def policy_version(connection: Connection, policy: str, version: int) -> StoredPolicy | None:
    """That version of that policy, or None where it was not published."""
    row = connection.execute(
        select(_policy).where(_policy.c.policy == policy, _policy.c.version == version)
    ).one_or_none()
    if row is None:
        return None
    return StoredPolicy(row.policy, row.version, row.weights_path, row.weights_sha256)


def create_policy(connection: Connection, policy: StoredPolicy) -> None:
    """Stores a published version; one already there stays as it is."""
    connection.execute(
        insert_if_absent(connection, _policy), {**vars(policy), "published_at": now()}
    )


def _stored(row: Row[tuple[object, ...]]) -> StoredRun:
    return StoredRun(
        run_id=row.run_id,
        spec=row.spec,
        spec_digest=row.spec_digest,
        task_ids=tuple(orjson.loads(row.task_ids)),
        state=RunState(row.state),
        created_at=row.created_at,
        ordinal=row.ordinal,
    )
