"""Tool sessions: opened from a log of calls, called in order, closed with their stream.

Owns the limit of open sessions and their opening. A session's state is a function of its world and
its calls so far (and, for simulated tools, of the ledger), so nothing here outlives the stream:
whoever holds the calls opens it again anywhere, and the state hash proves that it is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from services.tool_mock.ledger import Ledger
from services.tool_mock.ledger_session import LedgerSession
from services.tool_mock.numbering import NumberedCalls
from synthagent.errors import (
    BackendUnavailable,
    InvalidInput,
    LimitExceeded,
    StateDiverged,
)
from synthagent.worlds.engine import WorldImage
from synthagent.worlds.session import Answer, EngineFault, Session
from synthagent.worlds.spec import Task

MAX_HISTORY = 10_000
"""Most calls that are replayed on opening."""

_REPLAYED_AT_ONCE = 50
"""Calls replayed before other sessions get their turn."""

_RETRY_AFTER = timedelta(seconds=1)


class ToolSession(NumberedCalls):
    """One open session of a world that the engine answers for alone."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    @property
    def state_hash(self) -> str:
        """State hash after the last call, 32 hexadecimal digits."""
        return self._session.state_hash

    def answer(self, sequence: int, tool: str, arguments: str) -> Answer:
        """The result of call number `sequence`; a repeat of the last one gets the same again.

        Raises InvalidInput where the number is out of order or repeated with other content, and
        BackendUnavailable where the engine failed, after which the session is of no use.
        """
        if sequence != self.sequence:
            return self._repeat(sequence, tool, arguments)
        try:
            result = self._session.answer(tool, arguments)
        except EngineFault as fault:
            raise BackendUnavailable(
                "The tool engine failed; open the session again from its log."
            ) from fault
        self._last = (tool, arguments, result)
        self.sequence = sequence + 1
        return result


class Sessions:
    """The open sessions of this server, at most `limit`."""

    def __init__(self, limit: int, ledger: Ledger) -> None:
        self._limit = limit
        self._ledger = ledger
        self.open_count = 0

    @asynccontextmanager
    async def open(
        self,
        task: Task,
        image: WorldImage,
        history: Sequence[tuple[str, str]],
        expected_state_hash: str = "",
    ) -> AsyncIterator[ToolSession | LedgerSession]:
        """A session after the (tool, arguments) calls of `history`, closed with the block.

        Raises LimitExceeded, InvalidInput (history too long), StateDiverged where the state after
        the history is not the expected one, BackendUnavailable where the engine failed, and where
        a simulated call of the history is in no ledger, what making it again raises.
        """
        if len(history) > MAX_HISTORY:
            raise InvalidInput(
                f"The history has {len(history)} calls; at most {MAX_HISTORY} can be replayed.",
                field="history",
            )
        if self.open_count >= self._limit:
            raise LimitExceeded(
                f"This server has {self._limit} sessions open, its limit; close some, call another "
                "replica or try again later.",
                retry_after=_RETRY_AFTER,
            )
        self.open_count += 1
        try:
            with image.open() as opened:
                session: ToolSession | LedgerSession
                if image.root_version:
                    session = LedgerSession(opened, task, image.root_version, self._ledger)
                    await session.replay(history)
                else:
                    session = ToolSession(opened)
                    await _replay(session, history)
                _check_state(session, expected_state_hash)
                yield session
        finally:
            self.open_count -= 1


async def _replay(session: ToolSession, history: Sequence[tuple[str, str]]) -> None:
    for index, (tool, arguments) in enumerate(history):
        session.answer(index, tool, arguments)
        if index % _REPLAYED_AT_ONCE == _REPLAYED_AT_ONCE - 1:
            await asyncio.sleep(0)


def _check_state(session: ToolSession | LedgerSession, expected: str) -> None:
    if expected and session.state_hash != expected:
        raise StateDiverged(
            f"The state after {session.sequence} calls is {session.state_hash}, not {expected}; "
            "the log does not belong to this task or is incomplete.",
            state_hash=session.state_hash,
            expected_state_hash=expected,
        )
