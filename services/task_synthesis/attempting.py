"""Attempts of the teacher's own model at a draft, played and judged through the contract.

The Rollout service plays them as episodes of a run whose name follows from the item, so a repeat
finds the run of the call before, ended or still going on. A run in which a backend was out of reach
says nothing about the draft: the caller is told to come back, and then another run takes its place.
What models used for a run and its judgements is put down to the run's name.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import count

from sqlalchemy import Connection

from services.task_synthesis.personas import number_of
from services.task_synthesis.teacher import Attempt
from synthagent import accounts
from synthagent.api.v1 import rollout_pb2
from synthagent.client import SynthAgentClient
from synthagent.convert import events_from_proto
from synthagent.errors import BackendUnavailable, NotFound, is_outage
from synthagent.llm import Usage
from synthagent.store import Store, responses, runs
from synthagent.worlds.episode import EpisodeEnd, EpisodeOutcome

_ROLE = "teacher"


class Attempts:
    """Plays attempts and has them judged, by the services that the client reaches.

    Those services and the store share one database.
    """

    def __init__(self, client: SynthAgentClient, store: Store) -> None:
        self._client = client
        self._store = store

    async def play(self, task_id: str, *, key: str, attempts: int) -> list[Attempt]:
        """That many finished episodes of a stored draft, without verdicts; `key` names the item.

        Raises BackendUnavailable where one of them was cut off by an outage; the same call made
        again plays them anew.
        """
        spec = rollout_pb2.RunSpec(
            model=rollout_pb2.ModelAgent(role=_ROLE),
            tasks=rollout_pb2.TaskSelection(task_ids=[task_id]),
            group_size=attempts,
            seed=number_of(key),
        )
        for number in count():
            run_id = _run_id(key, task_id, number)
            had_ended = await self._has_ended(run_id)
            await self._client.create_run(run_id, spec)
            async for _ in self._client.watch_run(run_id):
                pass
            played = await self._read(run_id)
            outage = next(filter(None, map(_outage, played)), "")
            if len(played) == attempts and not outage:
                return played
            if not had_ended:
                raise BackendUnavailable(
                    f"An attempt at {task_id} was cut off ({outage or 'the run was cancelled'}); "
                    "repeat the request, it goes on where it was cut.",
                    task_id=task_id,
                )
        raise AssertionError("unreachable")

    async def judge(self, task_id: str, attempts: Sequence[Attempt], *, key: str) -> list[Attempt]:
        """The attempts with verdicts by that task's rubric. Raises BackendUnavailable."""

        async def judged(attempt: Attempt) -> Attempt:
            request_id = _digest(key, task_id, attempt.trajectory_id)
            with accounts.charged(attempt.trajectory_id.partition(".")[0]):
                verdict = await self._client.judge(request_id, task_id, attempt.events)
            return replace(attempt, verdict=verdict)

        return await asyncio.gather(*map(judged, attempts))

    async def cost(self, task_id: str, *, key: str) -> Usage:
        """What models used for all runs of the draft so far and for the judgements of them."""

        def read(connection: Connection) -> Usage:
            total = Usage()
            for number in count():
                run_id = _run_id(key, task_id, number)
                if runs.get(connection, run_id) is None:
                    return total
                total += Usage(**asdict(responses.cost_of(connection, run_id)))
            raise AssertionError("unreachable")

        return await self._store.read(read)

    async def _has_ended(self, run_id: str) -> bool:
        try:
            run = await self._client.get_run(run_id)
        except NotFound:
            return False
        return run.state != rollout_pb2.RUN_STATE_RUNNING

    async def _read(self, run_id: str) -> list[Attempt]:
        """The episodes of an ended run, in the order in which they were numbered."""
        ids = [each.trajectory_id async for each in self._client.list_trajectories(run_id)]
        found = [await self._client.get_trajectory(trajectory_id) for trajectory_id in ids]
        found.sort(key=lambda trajectory: trajectory.index)
        return [
            Attempt(trajectory.trajectory_id, events_from_proto(trajectory.events))
            for trajectory in found
        ]


def fault_of(attempt: Attempt) -> str:
    """What cut an attempt off, or made its verdict invalid; "" where nothing did."""
    end = attempt.events[-1].body if attempt.events else None
    if isinstance(end, EpisodeEnd) and end.outcome is EpisodeOutcome.FAULT:
        return end.detail or "the episode ended in a fault"
    if attempt.verdict is not None and attempt.verdict.reward is None:
        return attempt.verdict.detail or "the verdict is invalid"
    return ""


def _outage(attempt: Attempt) -> str:
    fault = fault_of(attempt)
    return fault if is_outage(fault) else ""


def _run_id(key: str, task_id: str, number: int) -> str:
    return f"attempts-{_digest(key, task_id, str(number))[:32]}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()
