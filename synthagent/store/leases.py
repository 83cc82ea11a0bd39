"""Leases: which replica runs which episode, and until when unless it says so again.

Functions take a Core connection and are given to `Store.read` or `Store.write`. A pending episode
is free from the time it was admitted, a running one from the end of its lease; the longest free is
taken first. Where replicas run on several machines, PostgreSQL's clock is the only one that counts:
one that runs wrong neither takes what is another's nor keeps what is not its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, Connection, and_, func, not_, select, update

from synthagent.store.database import now
from synthagent.store.episodes import EpisodeState, StoredEpisode, sources, stored_episode
from synthagent.store.tables import EpisodeRow

_episode = EpisodeRow.metadata.tables["episode"]
_POSTGRESQL_CLOCK = select(func.extract("epoch", func.clock_timestamp()))


def claim(connection: Connection, owner: str, seconds: float, limit: int) -> list[StoredEpisode]:
    """Takes up to `limit` episodes that wait or whose lease has ended, in order of admission.

    The leases are `owner`'s for so many seconds. What another replica takes at the same time is
    passed over.
    """
    clock = _clock(connection)
    free = sources(EpisodeState.RUNNING)
    waits = _episode.c.state == EpisodeState.PENDING.value
    statement = (
        select(_episode)
        .where(_episode.c.state.in_(free), waits | (_episode.c.lease_expires_at <= clock))
        .order_by(_episode.c.lease_expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)  # SQLite, which lets one write at a time, leaves it out
    )
    taken = [stored_episode(row) for row in connection.execute(statement)]
    if taken:
        connection.execute(
            update(_episode)
            .where(_episode.c.trajectory_id.in_([episode.trajectory_id for episode in taken]))
            .values(
                state=EpisodeState.RUNNING.value,
                lease_owner=owner,
                lease_expires_at=clock + _microseconds(seconds),
                started_at=func.coalesce(_episode.c.started_at, now()),
            )
        )
    return [
        replace(episode, state=EpisodeState.RUNNING, fresh=episode.state is EpisodeState.PENDING)
        for episode in taken
    ]


def renew(
    connection: Connection, owner: str, seconds: float, trajectory_ids: Sequence[str]
) -> None:
    """Makes those leases of `owner` end in so many seconds from now that are of these episodes.

    Only what really runs is to be named: a lease that was taken or should have been given back
    while the database could not be reached is nobody's work, and has to end.
    """
    connection.execute(
        update(_episode)
        .where(*_held(owner), _episode.c.trajectory_id.in_(trajectory_ids))
        .values(lease_expires_at=_clock(connection) + _microseconds(seconds))
    )


def give_back(connection: Connection, owner: str) -> None:
    """Ends every lease of `owner`: its episodes are the first to be taken."""
    connection.execute(update(_episode).where(*_held(owner)).values(lease_expires_at=0))


def _held(owner: str) -> tuple[ColumnElement[bool], ...]:
    return _episode.c.state == EpisodeState.RUNNING.value, _episode.c.lease_owner == owner


def lost(connection: Connection, owner: str, trajectory_ids: Sequence[str]) -> set[str]:
    """Those of the episodes that are cancelled or another's; what has ended is not lost."""
    kept = and_(*_held(owner)) | (_episode.c.state == EpisodeState.ENDED.value)
    statement = select(_episode.c.trajectory_id).where(
        _episode.c.trajectory_id.in_(trajectory_ids), not_(kept)
    )
    return {row.trajectory_id for row in connection.execute(statement)}


def release(connection: Connection, trajectory_id: str, owner: str, seconds: float) -> None:
    """Gives one lease back, to be taken again when so many seconds have passed."""
    connection.execute(
        update(_episode)
        .where(
            _episode.c.trajectory_id == trajectory_id,
            *_held(owner),
        )
        .values(lease_owner="", lease_expires_at=_clock(connection) + _microseconds(seconds))
    )


def queue_age(connection: Connection) -> float:
    """Seconds that the episode longest free has waited to be taken; 0 where none waits.

    A lease that was given back has no end; its episode counts from its start.
    """
    free_since = func.coalesce(func.nullif(_episode.c.lease_expires_at, 0), _episode.c.started_at)
    statement = select(func.min(free_since)).where(
        _episode.c.state.in_(sources(EpisodeState.RUNNING))
    )
    oldest = connection.execute(statement).scalar_one()
    return max(0.0, (_clock(connection) - oldest) / 1_000_000) if oldest is not None else 0.0


def _clock(connection: Connection) -> int:
    """Microseconds since 1970 by the clock that all replicas share."""
    if connection.dialect.name != "postgresql":
        return now()
    return int(connection.execute(_POSTGRESQL_CLOCK).scalar_one() * 1_000_000)


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)


def owners(connection: Connection) -> set[str]:
    """Who holds leases of running episodes."""
    statement = (
        select(_episode.c.lease_owner)
        .where(_episode.c.state == EpisodeState.RUNNING.value, _episode.c.lease_owner != "")
        .distinct()
    )
    return {row.lease_owner for row in connection.execute(statement)}
