"""Writes episodes down: many episodes' events in one statement, each awaited by its episode.

A `JournalWriter` owns the queue of one process. While one write is being committed, what arrives is
gathered and becomes the next, so the cost of a commit is shared by all episodes that wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from synthagent.errors import BackendUnavailable
from synthagent.store import Store, episodes
from synthagent.store.episodes import Append, Ending
from synthagent.tokens import TokenSegment, TokenSource
from synthagent.worlds.episode import EpisodeEnd, Event, Verdict

GATHER_SECONDS = 0.002
"""How long a write waits for company. Far below a turn, and commits get several times fewer."""


@dataclass(frozen=True)
class Entry:
    """What becomes durable as one: events and tokens, and the episode's end where it has ended."""

    append: Append
    ending: Ending | None = None


_Waiting = tuple[Entry, "asyncio.Future[None]"]


class JournalWriter:
    """The one writer of events of a process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[_Waiting] = []
        self._flush: asyncio.Task[None] | None = None

    async def write(self, entry: Entry) -> None:
        """Returns once the entry is committed. Raises LeaseLost, and what the store raises."""
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, committed))
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._flush_all())
        await committed

    async def close(self) -> None:
        """Returns once what was given is committed."""
        if self._flush is not None:
            await self._flush

    async def _flush_all(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_SECONDS)
            batch, self._waiting = self._waiting, []
            await self._commit(batch)

    async def _commit(self, batch: list[_Waiting]) -> None:
        appends = [entry.append for entry, _ in batch]
        endings = [entry.ending for entry, _ in batch if entry.ending]

        def write(connection: Connection) -> None:
            episodes.append(connection, appends)
            if endings:
                episodes.end(connection, endings)

        try:
            await self._store.write(write)
        except BaseException as error:  # noqa: BLE001 - goes to the episodes that wait for it
            if len(batch) > 1 and not isinstance(error, BackendUnavailable):
                for one in batch:  # one of them is at fault: each on its own
                    await self._commit([one])
                return
            for _, committed in batch:
                if not committed.done():
                    committed.set_exception(error)
            return
        for _, committed in batch:
            if not committed.done():  # its episode may have been cancelled meanwhile
                committed.set_result(None)


class EpisodeJournal:
    """The journal of one episode."""

    def __init__(
        self,
        writer: JournalWriter,
        *,
        trajectory_id: str,
        run_id: str,
        owner: str,
        episodes_total: int,
        segments: Sequence[TokenSegment] = (),
    ) -> None:
        self._writer = writer
        self._trajectory_id = trajectory_id
        self._run_id = run_id
        self._owner = owner
        self._episodes_total = episodes_total
        self._segments = list(segments)

    async def append(self, events: Sequence[Event], segments: Sequence[TokenSegment]) -> None:
        """Returns once the events and tokens are committed. Raises LeaseLost."""
        item = Append(self._trajectory_id, events, segments, first_segment=len(self._segments))
        await self._writer.write(Entry(item))
        self._segments.extend(segments)

    async def end(self, sequence: int, end: EpisodeEnd, verdict: Verdict) -> None:
        """Returns once the last event, verdict and state are committed. Raises LeaseLost."""
        sampled = [s for s in self._segments if s.source is TokenSource.POLICY and s.logprobs]
        ending = Ending(
            trajectory_id=self._trajectory_id,
            run_id=self._run_id,
            owner=self._owner,
            outcome=end.outcome,
            verdict=verdict,
            policy_tokens=sum(len(segment.token_ids) for segment in sampled),
            policy_version=sampled[0].policy_version if sampled else None,
            episodes_total=self._episodes_total,
        )
        last = Append(self._trajectory_id, [Event(sequence=sequence, body=end)])
        await self._writer.write(Entry(last, ending))
