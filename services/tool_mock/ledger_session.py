"""Sessions of worlds with simulated tools: the engine for what it answers, the ledger for the rest.

Owns the state version of one episode. Every call goes to the engine first, which checks arguments
alike for all tools; what it cannot answer, the ledger does. A call that changed something, of
either kind, moves the version, so that an answer of a model is only found by episodes with the same
changes. The session's state hash covers tables and version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.tool_mock.ledger import Ledger
from services.tool_mock.numbering import NumberedCalls
from services.tool_mock.simulated_call import Course, PastCall
from synthagent.errors import BackendUnavailable
from synthagent.store.ledger import LedgerEntry
from synthagent.worlds.session import NOT_AVAILABLE, Answer, EngineFault, Session
from synthagent.worlds.spec import SimulatedBehaviour, Task, Tool
from synthagent.worlds.versions import canonical, session_hash

_REPLAYED_AT_ONCE = 50
"""Calls replayed before other sessions get their turn."""


class LedgerSession(NumberedCalls):
    """One open session of a world with simulated tools."""

    __slots__ = ("_course", "_engine", "_ledger", "_simulated", "_task", "state_hash")

    def __init__(self, engine: Session, task: Task, root_version: str, ledger: Ledger) -> None:
        super().__init__()
        self._engine = engine
        self._task = task
        self._ledger = ledger
        self._simulated: dict[str, Tool] = {
            tool.name: tool
            for tool in task.world.tools
            if isinstance(tool.behaviour, SimulatedBehaviour)
        }
        self._course = Course(root_version)
        self.state_hash = session_hash(engine.state_hash, root_version)
        """State hash after the last call, 32 hexadecimal digits."""

    async def answer(self, sequence: int, tool: str, arguments: str) -> Answer:
        """The result of call number `sequence`; a repeat of the last one gets the same again.

        Raises what `ToolSession.answer` raises; PreconditionFailed, ModelUnavailable or ModelFault
        where a model is needed and there is none or it fails. Then the call was not made.
        """
        if sequence != self.sequence:
            return self._repeat(sequence, tool, arguments)
        result, source = await self._answer(tool, arguments)
        self._ledger.count(source)
        self._advance(tool, arguments, result)
        return result

    async def replay(self, history: Sequence[tuple[str, str]]) -> None:
        """Makes (tool, arguments) calls again. What a model must make again is counted as such."""
        for index, (tool, arguments) in enumerate(history, 1):
            result, source = await self._answer(tool, arguments)
            if source in ("semantic", "generated"):
                self._ledger.count(source)
            self._advance(tool, arguments, result)
            if index % _REPLAYED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _advance(self, tool: str, arguments: str, result: Answer) -> None:
        self._last = (tool, arguments, result)
        self.sequence += 1

    async def _answer(self, tool: str, arguments: str) -> tuple[Answer, str]:
        """The answer and its source; "" where the ledger has nothing to do with it."""
        before = self._engine.state_hash
        try:
            answer = self._engine.answer(tool, arguments)
        except EngineFault as fault:
            raise BackendUnavailable(
                "The tool engine failed; open the session again from its log."
            ) from fault
        simulated = self._simulated.get(tool)
        if simulated is not None and answer.error_code == NOT_AVAILABLE:
            entry, source = await self._from_ledger(simulated, canonical(arguments))
            ok, result, error_code = entry.ok, entry.result, entry.error_code
            changed = entry.next_state_version != entry.state_version
        else:
            ok, result, error_code, state = answer
            source = "" if simulated is None else "refused"
            changed = state != before
        if ok:
            self._course.add(PastCall(tool, canonical(arguments), result, changed))
        if ok and changed:
            self.state_hash = session_hash(self._engine.state_hash, self._course.version)
        return Answer(ok, result, error_code, self.state_hash), source

    async def _from_ledger(self, tool: Tool, arguments: str) -> tuple[LedgerEntry, str]:
        key = (self._task.task_id, tool.name, arguments, self._course.version)
        entry = self._ledger.known(key)
        if entry is not None:
            return entry, "exact"
        return await self._ledger.answer(key, self._course.call(self._task, tool, arguments))
