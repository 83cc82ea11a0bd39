"""Two replicas, one database, a model that never says the same twice: what rollouts rely on.

Sixteen rollouts at once make seeded calls at both replicas, one of which is killed half-way. In all
that they saw, the same action in the same state has the same bytes; every answer is the ledger's;
no rollout was told of another's changes; and every session opens again without a model.
"""

import asyncio
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import pytest

from services.tool_mock.servicer import register
from synthagent.client import SynthAgentClient
from synthagent.errors import BackendUnavailable
from synthagent.server import running
from synthagent.settings import Settings
from synthagent.store import tasks
from synthagent.tool_session import RecordedCall, ToolSession
from synthagent.worlds.episode import ToolResult
from tests.services.tool_mock.conftest import tool_role
from tests.services.tool_mock.lending import Scribe, lending_task
from tests.services.tool_mock.served import Served
from tests.synthagent.llm.server import Received, serving

ROLLOUTS = 16
CALLS = 14
MARK = re.compile(r"member of rollout (\d+)")
SIMULATED = ("search_shelf", "thing_status", "lend_thing")


def answer(received: Received, number: int) -> dict[str, str]:
    """Says of whose changes it was told."""
    told = sorted(set(MARK.findall(received.body["messages"][-1]["content"])))
    return {"note": f"answer {number}; told of {'; '.join(f'member of rollout {n}' for n in told)}"}


def match(earlier: list[str], new: str) -> int:
    """The earlier call with the same words in another case."""
    return next((n for n, text in enumerate(earlier, 1) if text.lower() == new.lower()), 0)


def draw(chance: random.Random, rollout: int) -> RecordedCall:
    """A call: few things, so that rollouts meet; changes that all make, and of their own."""
    thing = chance.choice(["fork", "Fork", "rake", "hoe"])
    member = chance.choice([f"member of rollout {rollout}", "Oda"])
    kind = chance.choice(["search", "search", "status", "status", "lend", "count", "bad"])
    calls: dict[str, tuple[str, dict[str, object]]] = {
        "search": ("search_shelf", {"words": thing}),
        "status": ("thing_status", {"thing": thing}),
        "lend": ("lend_thing", {"thing": thing, "member": member}),
        "count": ("count_visit", {"by": chance.choice([0, 1])}),
        "bad": ("lend_thing", {"thing": thing}),
    }
    tool, arguments = calls[kind]
    return RecordedCall(tool, json.dumps(arguments))


class Rollout:
    """One rollout: its calls, what it saw, and where it goes on when its replica is lost."""

    def __init__(
        self, number: int, task_id: str, seed: int, home: SynthAgentClient, spare: SynthAgentClient
    ) -> None:
        self.number = number
        self._task_id = task_id
        self._chance = random.Random(f"{seed}/{number}")
        self._home, self._spare = home, spare
        self.session: ToolSession | None = None
        self.seen: list[tuple[RecordedCall, ToolResult]] = []

    async def run(self, reached: Callable[[], None]) -> None:
        try:
            self.session = await self._home.open_session(self._task_id)
        except BackendUnavailable:  # killed before a slow machine came to this one
            self.session = await self._spare.open_session(self._task_id)
        for step in range(CALLS):
            if step == CALLS // 2:
                reached()
            call = draw(self._chance, self.number)
            try:
                result = await self.session.call(*call)
            except BackendUnavailable:
                lost = self.session
                self.session = await self._spare.open_session(
                    self._task_id, lost.calls, lost.state_hash
                )
                result = await self.session.call(*call)
            self.seen.append((call, result))
        await self.session.close()


Action = tuple[tuple[tuple[str, str], ...], str, str]


def by_action(rollouts: list[Rollout]) -> dict[Action, set[str]]:
    """What each action gave, by the changes before it, the tool and the arguments."""
    given = defaultdict(set)
    for rollout in rollouts:
        changes: list[tuple[str, str]] = []
        visits = 0
        for (tool, arguments), result in rollout.seen:
            key = (tuple(changes), tool, arguments)
            given[key].add(f"{result.ok} {result.error_code} {result.result}")
            counted = json.loads(result.result).get("visits", visits)
            if counted != visits or (tool == "lend_thing" and result.ok):
                changes.append((tool, arguments))
            visits = counted
    return given


@pytest.mark.parametrize(("seed", "kind"), [(1, "simulated"), (2, "mixed")])
async def test_rollouts_over_two_replicas_of_which_one_is_killed(
    make_settings: Callable[..., Settings], database_url: str, seed: int, kind: str
) -> None:
    scribe = Scribe(answer, match, pause_seconds=0.02)
    task = lending_task("shared", mixed=kind == "mixed")
    async with serving(scribe) as model:
        settings = make_settings(tool=tool_role(model.base_url))
        async with running(settings, [register]) as server:
            await server.resources.store.write(partial(tasks.put, task=task))
            doomed = await asyncio.to_thread(
                Served, database_url, tool__base_url=model.base_url, tool__model="m"
            )
            stays = server.resources.client
            async with (
                AsyncExitStack() as stack,
                SynthAgentClient(doomed.address, timeout_seconds=2.0) as falls,
            ):
                stack.callback(doomed.kill)
                waiting = ROLLOUTS

                def reached() -> None:
                    nonlocal waiting
                    waiting -= 1
                    if waiting == ROLLOUTS // 2:
                        doomed.kill()

                rollouts = [
                    Rollout(number, "shared", seed, falls if number % 2 else stays, stays)
                    for number in range(ROLLOUTS)
                ]
                await asyncio.gather(*(rollout.run(reached) for rollout in rollouts))
            await check(rollouts, stays, scribe)


async def check(rollouts: list[Rollout], client: SynthAgentClient, scribe: Scribe) -> None:
    assert all(len(rollout.seen) == CALLS for rollout in rollouts)
    given = by_action(rollouts)
    assert all(len(results) == 1 for results in given.values()), given
    shared = [key for key in given if key[0] == ()]
    assert len(shared) < len(given)  # some were made after changes

    entries = [entry async for entry in client.list_ledger_entries("shared")]
    keys = {(entry.tool, entry.arguments_json, entry.state_version) for entry in entries}
    assert len(keys) == len(entries)
    held = defaultdict(set)
    for entry in entries:
        held[entry.tool, entry.arguments_json].add(entry.result.result_json)
    for rollout in rollouts:
        for (tool, arguments), result in rollout.seen:
            if tool in SIMULATED and result.ok:
                canonical = json.dumps(json.loads(arguments), sort_keys=True, separators=(",", ":"))
                assert result.result in held[tool, canonical]
            told = {int(number) for number in MARK.findall(result.result)}
            assert told <= {rollout.number}
    for prompt in scribe.of("tool_answer"):
        assert len(set(MARK.findall(prompt))) <= 1
    assert any(entry.match_reason for entry in entries)

    asked = len(scribe.asked)
    for rollout in rollouts:
        assert rollout.session is not None
        again = await client.open_session(
            "shared", rollout.session.calls, rollout.session.state_hash
        )
        await again.close()
    assert len(scribe.asked) == asked
