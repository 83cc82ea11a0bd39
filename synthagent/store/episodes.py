"""Episodes with their event logs, tokens and verdicts, and the leases by which replicas share them.

Functions take a Core connection and are given to `Store.read` or `Store.write`. An episode is
admitted PENDING, RUNNING while a replica holds its lease, and ENDED or CANCELLED for good
(`EPISODE_TRANSITIONS`). Events are only ever added, each sequence once: a replica that lost its
lease and writes late meets `LeaseLost`.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    Connection,
    Row,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from synthagent.store.database import now
from synthagent.store.runs import RunState, change_state
from synthagent.store.tables import EpisodeRow, EventRow, GroupRow, RunRow, SegmentRow
from synthagent.tokens import TokenSegment, TokenSource
from synthagent.worlds.episode import (
    EpisodeOutcome,
    Event,
    EventBody,
    Verdict,
)

_run = RunRow.metadata.tables["run"]
_episode = EpisodeRow.metadata.tables["episode"]
_event = EventRow.metadata.tables["event"]
_segment = SegmentRow.metadata.tables["segment"]
_group = GroupRow.metadata.tables["episode_group"]
_BODY: TypeAdapter[EventBody] = TypeAdapter(EventBody)


class EpisodeState(StrEnum):
    """State of an episode."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    CANCELLED = "cancelled"


EPISODE_TRANSITIONS: Mapping[EpisodeState, frozenset[EpisodeState]] = {
    EpisodeState.PENDING: frozenset({EpisodeState.RUNNING, EpisodeState.CANCELLED}),
    # A running episode is taken over, running, by another replica once its lease has ended.
    EpisodeState.RUNNING: frozenset(
        {EpisodeState.RUNNING, EpisodeState.ENDED, EpisodeState.CANCELLED}
    ),
    EpisodeState.ENDED: frozenset(),
    EpisodeState.CANCELLED: frozenset(),
}


def sources(target: EpisodeState) -> list[str]:
    """The states from which an episode may come to `target`."""
    return [source.value for source, targets in EPISODE_TRANSITIONS.items() if target in targets]


# Built once: what runs with every event or episode must not be built anew each time.
_ADD_EVENTS = insert(_event)
_ADD_SEGMENTS = insert(_segment)
_LAST_COMPLETION = select(func.max(_episode.c.completion)).where(
    _episode.c.run_id == bindparam("run")
)
_LOCK_RUNS = (
    select(_run.c.run_id)
    .where(_run.c.run_id.in_(bindparam("runs", expanding=True)))
    .order_by(_run.c.run_id)
    .with_for_update(key_share=True)  # SQLite, which lets one write at a time, leaves it out
)
_END = (
    update(_episode)
    .where(
        _episode.c.trajectory_id == bindparam("id"),
        _episode.c.lease_owner == bindparam("owner"),
        # No IN: its list of parameters cannot be given for many rows at once.
        or_(*(_episode.c.state == source for source in sources(EpisodeState.ENDED))),
    )
    .values(
        {
            name: bindparam(name)
            for name in (
                "state",
                "outcome",
                "reward",
                "invalid_reason",
                "verdict",
                "completion",
                "policy_tokens",
                "policy_version",
                "ended_at",
            )
        }
    )
)


class LeaseLost(Exception):
    """The episode belongs to another replica, has ended, or was cancelled."""


@dataclass(frozen=True)
class StoredEpisode:
    """The row of an episode."""

    trajectory_id: str
    run_id: str
    group_id: str
    index: int
    task_id: str
    split: str
    agent: str
    state: EpisodeState
    outcome: EpisodeOutcome | None
    verdict: Verdict | None
    completion: int | None
    started_at: int | None
    ended_at: int | None
    fresh: bool = False
    """Whether it was taken for the first time just now, so that its log is empty."""


@dataclass(frozen=True)
class StoredTrajectory:
    """An episode with its events, the times at which they were recorded, and its tokens."""

    episode: StoredEpisode
    events: tuple[Event, ...] = ()
    recorded_at: tuple[int, ...] = ()
    segments: tuple[TokenSegment, ...] = ()


@dataclass
class Append:
    """What one turn of an episode adds to its log."""

    trajectory_id: str
    events: Sequence[Event]
    segments: Sequence[TokenSegment] = ()
    first_segment: int = 0
    recorded_at: int = field(default_factory=now)


@dataclass(frozen=True)
class Ending:
    """How an episode ended. `episodes_total` is that of its run."""

    trajectory_id: str
    run_id: str
    owner: str
    outcome: EpisodeOutcome
    verdict: Verdict
    policy_tokens: int
    policy_version: int | None
    episodes_total: int


def pending_row(
    *,
    trajectory_id: str,
    run_id: str,
    group_id: str,
    index: int,
    task_id: str,
    split: str,
    agent: str,
    admitted_at: int,
) -> dict[str, object]:
    """The row of an episode that waits to be taken, for `runs.admit`."""
    return {
        "trajectory_id": trajectory_id,
        "run_id": run_id,
        "group_id": group_id,
        "group_index": index,
        "task_id": task_id,
        "split": split,
        "agent": agent,
        "state": EpisodeState.PENDING.value,
        "policy_tokens": 0,
        "lease_expires_at": admitted_at,
    }


def append(connection: Connection, appends: Sequence[Append]) -> None:
    """Adds events and tokens to logs. Raises LeaseLost where a sequence is already there."""
    events = [
        {
            "trajectory_id": item.trajectory_id,
            "sequence": event.sequence,
            "kind": event.body.kind,
            "body": event.body.model_dump_json(),
            "recorded_at": item.recorded_at,
        }
        for item in appends
        for event in item.events
    ]
    segments = [
        {
            "trajectory_id": item.trajectory_id,
            "ordinal": ordinal,
            "source": segment.source.value,
            "token_ids": _pack("I", segment.token_ids),
            "logprobs": _pack("f", segment.logprobs),
            "policy_version": segment.policy_version,
        }
        for item in appends
        for ordinal, segment in enumerate(item.segments, item.first_segment)
    ]
    try:
        if events:
            connection.execute(_ADD_EVENTS, events)
        if segments:
            connection.execute(_ADD_SEGMENTS, segments)
    except IntegrityError as error:
        raise LeaseLost("another replica has already written this event") from error


def end(connection: Connection, endings: Sequence[Ending]) -> None:
    """Ends episodes with their verdicts, and with its last episode each run.

    Raises LeaseLost where one of them is not held by its `owner` any more.
    """
    # One replica after the other numbers a run's completions, and sees which is the last.
    ended_runs = {ending.run_id for ending in endings}
    connection.execute(_LOCK_RUNS, {"runs": sorted(ended_runs)})
    completions: dict[str, int] = {}
    rows = []
    for ending in endings:
        run_id, verdict = ending.run_id, ending.verdict
        if run_id not in completions:
            last = connection.execute(_LAST_COMPLETION, {"run": run_id}).scalar()
            completions[run_id] = int(last or 0)
        completions[run_id] += 1
        rows.append(
            {
                "id": ending.trajectory_id,
                "owner": ending.owner,
                "state": EpisodeState.ENDED.value,
                "outcome": ending.outcome.value,
                "reward": verdict.reward,
                "invalid_reason": verdict.invalid_reason.value if verdict.invalid_reason else None,
                "verdict": verdict.model_dump_json(),
                "completion": completions[run_id],
                "policy_tokens": ending.policy_tokens,
                "policy_version": ending.policy_version,
                "ended_at": now(),
            }
        )
    if connection.execute(_END, rows).rowcount != len(rows):
        raise LeaseLost("the episode was taken over or cancelled")
    for ending in endings:
        if completions.get(ending.run_id) == ending.episodes_total:
            change_state(connection, ending.run_id, RunState.SUCCEEDED)


def cancel(connection: Connection, run_id: str) -> None:
    """Cancels the run's episodes that have not ended."""
    connection.execute(
        update(_episode)
        .where(_episode.c.run_id == run_id, _episode.c.state.in_(sources(EpisodeState.CANCELLED)))
        .values(state=EpisodeState.CANCELLED.value)
    )


def unfinished(connection: Connection, run_id: str) -> int:
    """How many admitted episodes of the run wait or run."""
    statement = select(func.count()).where(
        _episode.c.run_id == run_id, _episode.c.state.in_(sources(EpisodeState.CANCELLED))
    )
    return int(connection.execute(statement).scalar_one())


def load(connection: Connection, trajectory_id: str) -> StoredTrajectory | None:
    """The trajectory of that identifier, running or ended, or None."""
    row = connection.execute(
        select(_episode).where(_episode.c.trajectory_id == trajectory_id)
    ).one_or_none()
    if row is None:
        return None
    events = connection.execute(
        select(_event.c.sequence, _event.c.body, _event.c.recorded_at)
        .where(_event.c.trajectory_id == trajectory_id)
        .order_by(_event.c.sequence)
    ).all()
    segments = connection.execute(
        select(_segment)
        .where(_segment.c.trajectory_id == trajectory_id)
        .order_by(_segment.c.ordinal)
    )
    return StoredTrajectory(
        episode=stored_episode(row),
        events=tuple(
            Event(sequence=event.sequence, body=_BODY.validate_json(event.body)) for event in events
        ),
        recorded_at=tuple(event.recorded_at for event in events),
        segments=tuple(
            TokenSegment(
                source=TokenSource(segment.source),
                token_ids=_unpack("I", segment.token_ids),
                logprobs=_unpack("f", segment.logprobs),
                policy_version=segment.policy_version,
            )
            for segment in segments
        ),
    )


def completed(connection: Connection, run_id: str, after: int, limit: int) -> list[StoredEpisode]:
    """Up to `limit` ended episodes of the run after completion number `after`, in that order."""
    statement = (
        select(_episode)
        .where(_episode.c.run_id == run_id, _episode.c.completion > after)
        .order_by(_episode.c.completion)
        .limit(limit)
    )
    return [stored_episode(row) for row in connection.execute(statement)]


def _pack(code: str, values: Sequence[int] | Sequence[float]) -> bytes:
    packed = array.array(code, values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _unpack(code: str, data: bytes) -> tuple[Any, ...]:
    unpacked: array.array[Any] = array.array(code, data)
    if sys.byteorder == "big":
        unpacked.byteswap()
    return tuple(unpacked)


def stored_episode(row: Row[tuple[object, ...]]) -> StoredEpisode:
    """The value of a row with all columns of the episode table."""
    return StoredEpisode(
        trajectory_id=row.trajectory_id,
        run_id=row.run_id,
        group_id=row.group_id,
        index=row.group_index,
        task_id=row.task_id,
        split=row.split,
        agent=row.agent,
        state=EpisodeState(row.state),
        outcome=EpisodeOutcome(row.outcome) if row.outcome else None,
        verdict=Verdict.model_validate_json(row.verdict) if row.verdict else None,
        completion=row.completion,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )
