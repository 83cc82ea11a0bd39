"""Leases: which replica runs which episode, and until when unless it says so again.

Functions take a Core connection and are given to `Store.read` or `Store.write`. A pending episode
is free from the time it was admitted, a running one from the end of its lease; the longest free is
taken first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, and_, func, not_, select, update

from synthagent.store.database import now
from synthagent.store.episodes import EpisodeState, StoredEpisode, sources, stored_episode
from synthagent.store.tables import EpisodeRow

_episode = EpisodeRow.metadata.tables["episode"]


def claim(connection: Connection, owner: str, lease_until: int, limit: int) -> list[StoredEpisode]:
    """Takes up to `limit` episodes that wait or whose lease has ended, in order of admission."""
    free = sources(EpisodeState.RUNNING)
    statement = (
        select(_episode)
        .where(_episode.c.state.in_(free), _episode.c.lease_expires_at <= now())
        .order_by(_episode.c.lease_expires_at)
        .limit(limit)
    )
    if connection.dialect.name == "postgresql":
        statement = statement.with_for_update(skip_locked=True)
    taken = [stored_episode(row) for row in connection.execute(statement)]
    if taken:
        connection.execute(
            update(_episode)
            .where(_episode.c.trajectory_id.in_([episode.trajectory_id for episode in taken]))
            .values(
                state=EpisodeState.RUNNING.value,
                lease_owner=owner,
                lease_expires_at=lease_until,
                started_at=func.coalesce(_episode.c.started_at, now()),
            )
        )
    return [
        replace(episode, state=EpisodeState.RUNNING, fresh=episode.state is EpisodeState.PENDING)
        for episode in taken
    ]


def renew(connection: Connection, owner: str, lease_until: int) -> None:
    """Prolongs every lease of `owner`; a time that is past gives them back."""
    connection.execute(
        update(_episode)
        .where(_episode.c.state == EpisodeState.RUNNING.value, _episode.c.lease_owner == owner)
        .values(lease_expires_at=lease_until)
    )


def lost(connection: Connection, owner: str, trajectory_ids: Sequence[str]) -> set[str]:
    """Those of the episodes that are cancelled or another's; what has ended is not lost."""
    kept = and_(_episode.c.state == EpisodeState.RUNNING.value, _episode.c.lease_owner == owner) | (
        _episode.c.state == EpisodeState.ENDED.value
    )
    statement = select(_episode.c.trajectory_id).where(
        _episode.c.trajectory_id.in_(trajectory_ids), not_(kept)
    )
    return {row.trajectory_id for row in connection.execute(statement)}


def release(connection: Connection, trajectory_id: str, owner: str, again_at: int) -> None:
    """Gives one lease back, to be taken again from `again_at` on."""
    connection.execute(
        update(_episode)
        .where(
            _episode.c.trajectory_id == trajectory_id,
            _episode.c.state == EpisodeState.RUNNING.value,
            _episode.c.lease_owner == owner,
        )
        .values(lease_owner="", lease_expires_at=again_at)
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
    return max(0.0, (now() - oldest) / 1_000_000) if oldest is not None else 0.0


def owners(connection: Connection) -> set[str]:
    """Who holds leases of running episodes."""
    statement = (
        select(_episode.c.lease_owner)
        .where(_episode.c.state == EpisodeState.RUNNING.value, _episode.c.lease_owner != "")
        .distinct()
    )
    return {row.lease_owner for row in connection.execute(statement)}
