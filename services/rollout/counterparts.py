"""The tools, user and judge of an episode, as other services reached through the client.

Owns the episode's tool session: opened at the first call, reopened from the event log after any
loss. The client itself retries what cannot be reached; here a whole attempt is repeated for as long
as an outage may reasonably take (a node lost, a database restarted, a full disk freed) before the
failure is pinned, as an EpisodeFault, on the boundary that it crossed.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from services.rollout.episode import EpisodeFault
from synthagent.client import SynthAgentClient
from synthagent.errors import (
    BackendUnavailable,
    LimitExceeded,
    ModelUnavailable,
    StateDiverged,
    StorageFull,
    SynthAgentError,
    as_detail,
)
from synthagent.tool_session import RecordedCall, ToolSession
from synthagent.worlds.episode import (
    AgentTurn,
    Event,
    InvalidReason,
    ToolResult,
    UserReply,
    Verdict,
)

T = TypeVar("T")
PATIENCE_SECONDS = 120.0
"""How long an episode waits for what is out of reach, or full, before it ends INVALID."""

_MODEL_ATTEMPTS = 3
"""Attempts at what a model has to answer, whose own retries have all failed each time."""

_BROKEN_ATTEMPTS = 6
"""Attempts where the other end broke without a word of why; another replica may not."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.4, 5.0


class RemoteCounterparts:
    """Counterparts of one episode in other services."""

    def __init__(
        self, client: SynthAgentClient, *, trajectory_id: str, task_id: str, reward_preset: str
    ) -> None:
        self._client = client
        self._trajectory_id = trajectory_id
        self._task_id = task_id
        self._reward_preset = reward_preset
        self._session: ToolSession | None = None

    async def call(self, events: Sequence[Event]) -> ToolResult:
        """Makes the call that the last event asks for. Raises EpisodeFault."""
        turn = events[-1].body
        if not isinstance(turn, AgentTurn):
            raise TypeError(f"event {events[-1].sequence} asks for no call")

        async def attempt() -> ToolResult:
            if self._session is None:
                history, state_hash = calls_so_far(events)
                self._session = await self._client.open_session(self._task_id, history, state_hash)
            return await self._session.call(turn.tool, turn.arguments)

        return await _persistently(attempt, InvalidReason.TOOL_FAULT)

    async def reply(self, events: Sequence[Event]) -> UserReply:
        """The user's answer to the last event. Raises EpisodeFault."""
        request_id = request_id_of(self._trajectory_id, events[-1].sequence)
        return await _persistently(
            lambda: self._client.reply(request_id, self._task_id, events), InvalidReason.USER_FAULT
        )

    async def judge(self, events: Sequence[Event]) -> Verdict:
        """The verdict on an episode that has ended. Raises EpisodeFault."""
        request_id = request_id_of(self._trajectory_id, events[-1].sequence)
        return await _persistently(
            lambda: self._client.judge(request_id, self._task_id, events, self._reward_preset),
            InvalidReason.JUDGE_FAULT,
        )

    async def close(self) -> None:
        """Ends the tool session."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def calls_so_far(events: Sequence[Event]) -> tuple[list[RecordedCall], str]:
    """The calls that have a result, and the state hash after the last; "" where there is none."""
    history: list[RecordedCall] = []
    state_hash = ""
    for turn, result in pairwise(events):
        if isinstance(turn.body, AgentTurn) and isinstance(result.body, ToolResult):
            history.append(RecordedCall(turn.body.tool, turn.body.arguments))
            state_hash = result.body.state_hash
    return history, state_hash


def request_id_of(trajectory_id: str, sequence: int) -> str:
    """The request_id of what an episode asks at an event: the same whenever it is asked again."""
    return hashlib.sha256(f"{trajectory_id}/{sequence}".encode()).hexdigest()


async def _persistently(attempt: Callable[[], Awaitable[T]], reason: InvalidReason) -> T:
    end = time.monotonic() + PATIENCE_SECONDS
    pause = _FIRST_PAUSE_SECONDS
    models_left, broken_left = _MODEL_ATTEMPTS, _BROKEN_ATTEMPTS
    while True:
        try:
            return await attempt()
        except StateDiverged as error:
            raise EpisodeFault(InvalidReason.REPLAY_MISMATCH, error.message) from error
        except SynthAgentError as error:
            models_left -= isinstance(error, ModelUnavailable)
            broken_left -= _is_broken(error)
            spent = not models_left or not broken_left or time.monotonic() >= end
            if spent or not _may_pass(error):
                raise EpisodeFault(reason, as_detail(error)) from error
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _may_pass(error: SynthAgentError) -> bool:
    """Whether waiting may help: the other end is away, full or broken, or says when to come."""
    if isinstance(error, BackendUnavailable | StorageFull) or _is_broken(error):
        return True
    return isinstance(error, LimitExceeded) and error.retry_after is not None


def _is_broken(error: SynthAgentError) -> bool:
    """Whether the other end said INTERNAL or UNKNOWN, which no class of ours stands for."""
    return type(error) is SynthAgentError
