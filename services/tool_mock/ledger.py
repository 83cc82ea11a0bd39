"""The ledger of this replica: answers valid calls of simulated tools, each action once.

Order: exact match on the key (task, tool, canonical arguments, state version), semantic match by
the model, generation. Whatever a model gave is recorded before it is returned, and what the
database holds under the key is returned, whichever replica wrote it. Identical calls in flight
share one answer. Entries never change, so those seen are kept in memory, the least recently used
dropped first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial

from prometheus_client import Counter

from services.tool_mock.similarity import possible_matches, similar
from services.tool_mock.simulated_call import SimulatedCall
from services.tool_mock.tool_model import ToolModel
from synthagent import deadlines
from synthagent.llm import Models
from synthagent.store import Store, ledger
from synthagent.store.ledger import LedgerEntry, Source
from synthagent.worlds.versions import next_version

Key = tuple[str, str, str, str]
"""Task, tool, canonical arguments, state version."""

SOURCES = ("exact", "semantic", "generated", "refused")
_KEPT_CHARACTERS = 32 * 2**20
_COMPARED = 512  # newest entries among which similar ones are looked for


class Ledger:
    """Answers calls. Belongs to one event loop; closed once, when no session is open any more."""

    def __init__(self, store: Store, models: Models, calls: Counter) -> None:
        """`calls` counts by source, as `SOURCES` has them."""
        self._store = store
        self._models = models
        self._counters = {source: calls.labels(source) for source in SOURCES}
        self._entries: OrderedDict[Key, LedgerEntry] = OrderedDict()
        self._characters = 0
        self._running: dict[Key, asyncio.Task[tuple[LedgerEntry, str]]] = {}

    def count(self, source: str) -> None:
        """Counts an answered call; "" is none of the ledger's."""
        if source:
            self._counters[source].inc()

    def known(self, key: Key) -> LedgerEntry | None:
        """The entry, where this replica has seen it."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    async def answer(self, key: Key, call: SimulatedCall) -> tuple[LedgerEntry, str]:
        """The entry under the key and how it was found, one of `SOURCES`.

        The answer is found to its end whatever becomes of those who wait for it, so that a repeat
        finds it. Raises PreconditionFailed without a model, ModelUnavailable, ModelFault.
        """
        running = self._running.get(key)
        if running is not None:
            entry, _ = await asyncio.shield(running)
            return entry, "exact"
        running = asyncio.create_task(self._find_or_make(key, call))
        self._running[key] = running
        running.add_done_callback(partial(self._ended, key))
        return await asyncio.shield(running)

    async def close(self) -> None:
        """Gives up what is still being answered."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, key: Key, task: asyncio.Task[tuple[LedgerEntry, str]]) -> None:
        del self._running[key]
        if not task.cancelled() and task.exception() is None:
            self._keep(key, task.result()[0])

    def _keep(self, key: Key, entry: LedgerEntry) -> None:
        self._entries[key] = entry
        self._characters += _size(entry)
        while self._characters > _KEPT_CHARACTERS:
            _, oldest = self._entries.popitem(last=False)
            self._characters -= _size(oldest)

    async def _find_or_make(self, key: Key, call: SimulatedCall) -> tuple[LedgerEntry, str]:
        deadlines.begin(None)  # others may come to wait for it, with more time than the first
        entry = await self._store.read(lambda connection: ledger.find(connection, *key))
        if entry is not None:
            return entry, "exact"
        model = ToolModel(self._models.need("tool"))
        made = await self._matched(model, call) or await self._generated(model, call)
        winner = await self._store.write(lambda connection: ledger.record(connection, made))
        return winner, winner.source.value

    async def _matched(self, model: ToolModel, call: SimulatedCall) -> LedgerEntry | None:
        rows = await self._recorded(call, [call.tool.name], (call.version,))
        candidates = possible_matches(call.arguments, rows)
        if not candidates:
            return None
        match = await model.match(call, candidates)
        if match is None:
            return None
        found = match.entry
        return _entry(
            call,
            ok=found.ok,
            result=found.result,
            error_code=found.error_code,
            source=Source.SEMANTIC,
            match_reason=match.reason,
            matched_arguments=found.arguments,
        )

    async def _generated(self, model: ToolModel, call: SimulatedCall) -> LedgerEntry:
        # Only answers of tools that change nothing: those of others are other episodes' history.
        tools = [tool.name for tool in call.task.world.tools if not tool.changes_state]
        rows = await self._recorded(call, tools, call.versions)
        answer = await model.generate(call, similar(call, rows))
        return _entry(
            call,
            ok=not answer.error_code,
            result=answer.result,
            error_code=answer.error_code,
            source=Source.GENERATED,
        )

    async def _recorded(
        self, call: SimulatedCall, tools: list[str], versions: tuple[str, ...]
    ) -> list[LedgerEntry]:
        return await self._store.read(
            lambda connection: ledger.generated(
                connection, call.task.task_id, tools, versions, _COMPARED
            )
        )


def _entry(
    call: SimulatedCall,
    *,
    ok: bool,
    result: str,
    error_code: str,
    source: Source,
    match_reason: str = "",
    matched_arguments: str = "",
) -> LedgerEntry:
    changes = ok and call.tool.changes_state
    version = call.version
    return LedgerEntry(
        task_id=call.task.task_id,
        tool=call.tool.name,
        arguments=call.arguments,
        state_version=version,
        next_state_version=(
            next_version(version, call.tool.name, call.arguments) if changes else version
        ),
        ok=ok,
        result=result,
        error_code=error_code,
        source=source,
        match_reason=match_reason,
        matched_arguments=matched_arguments,
    )


def _size(entry: LedgerEntry) -> int:
    return 512 + 2 * len(entry.arguments) + len(entry.result)  # 512: objects and short fields
