"""One episode: the turn loop of agent, tools and user, from any event on, to its verdict.

What is next follows from the last event alone, so an episode begins and resumes by the same code.
Every event is in the journal before anything is done on its basis; the end, the verdict and the
episode's state are one write. A fault of the machinery becomes an INVALID verdict, never a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from synthagent.tokens import TokenSegment
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    EventBody,
    InvalidReason,
    ToolResult,
    UserReply,
    Verdict,
)


class EpisodeFault(Exception):
    """The machinery failed, after every retry: whose fault it is and what happened."""

    def __init__(self, reason: InvalidReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Utterance:
    """One output of an agent, with the tokens that it read before and those it wrote."""

    turn: AgentTurn
    segments: tuple[TokenSegment, ...] = ()


class Agent(Protocol):
    """Who acts. All raise EpisodeFault where the agent's machinery fails."""

    async def speak(self, events: Sequence[Event]) -> Utterance | None:
        """The next output after these events; None where no tokens are left for one."""

    async def close(self) -> None:
        """Releases what the episode holds."""


class Counterparts(Protocol):
    """Tools, user and judge of one episode. All raise EpisodeFault."""

    async def call(self, events: Sequence[Event]) -> ToolResult:
        """Makes the call that the last event asks for; earlier events say which came before."""

    async def reply(self, events: Sequence[Event]) -> UserReply:
        """The user's answer to the message that the last event holds."""

    async def judge(self, events: Sequence[Event]) -> Verdict:
        """The verdict on an episode that has ended."""

    async def close(self) -> None:
        """Ends the tool session."""


class Journal(Protocol):
    """Where an episode is written down. Both raise LeaseLost where it is no longer ours."""

    async def append(self, events: Sequence[Event], segments: Sequence[TokenSegment]) -> None:
        """Returns once the events and tokens are committed."""

    async def end(self, sequence: int, end: EpisodeEnd, verdict: Verdict) -> None:
        """Returns once the last event, the verdict and the state are committed, as one."""


class Episode:
    """One episode under way."""

    def __init__(
        self,
        *,
        agent: Agent,
        counterparts: Counterparts,
        journal: Journal,
        events: Sequence[Event],
        max_turns: int,
        reward_preset: str,
    ) -> None:
        self._agent = agent
        self._counterparts = counterparts
        self._journal = journal
        self._events = list(events)
        self._max_turns = max_turns
        self._reward_preset = reward_preset

    async def run(self) -> tuple[EpisodeEnd, Verdict]:
        """Goes on from the last event to the end. Raises LeaseLost; may be cancelled anywhere."""
        try:
            end = await self._converse()
            verdict = await self._counterparts.judge([*self._events, self._next(end)])
        except EpisodeFault as fault:
            end = EpisodeEnd(
                outcome=EpisodeOutcome.FAULT, invalid_reason=fault.reason, detail=fault.detail
            )
            verdict = Verdict(
                reward=None,
                invalid_reason=fault.reason,
                detail=fault.detail,
                reward_preset=self._reward_preset,
            )
        finally:
            await self._counterparts.close()
            await self._agent.close()
        await self._journal.end(len(self._events), end, verdict)
        return end, verdict

    async def _converse(self) -> EpisodeEnd:
        while True:
            last = self._events[-1].body if self._events else None
            if isinstance(last, AgentTurn):
                if last.action is AgentAction.ANSWER:
                    return EpisodeEnd(outcome=EpisodeOutcome.ANSWERED)
                if last.action is AgentAction.CALL:
                    await self._record(await self._counterparts.call(self._events))
                else:
                    await self._record(await self._counterparts.reply(self._events))
                continue
            if self._turns() >= self._max_turns:
                return EpisodeEnd(outcome=EpisodeOutcome.TURN_LIMIT)
            utterance = await self._agent.speak(self._events)
            if utterance is None:
                return EpisodeEnd(outcome=EpisodeOutcome.TOKEN_LIMIT)
            await self._record(utterance.turn, utterance.segments)

    async def _record(self, body: EventBody, segments: Sequence[TokenSegment] = ()) -> None:
        event = self._next(body)
        await self._journal.append([event], segments)
        self._events.append(event)

    def _next(self, body: EventBody) -> Event:
        return Event(sequence=len(self._events), body=body)

    def _turns(self) -> int:
        return sum(isinstance(event.body, AgentTurn) for event in self._events)
