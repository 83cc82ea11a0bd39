"""Ledger hits per second over the session stream, against calls of a declarative world.

Both worlds are served by the same process and driven by the same client. A hit is a call of a
simulated tool that the ledger holds under its very key: validated, looked up, hashed, and no model
asked. The entries are written straight into the database, as other replicas would have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import orjson

from benchmarks import servers
from benchmarks.results import Result
from benchmarks.streams import StreamTiming, drive
from benchmarks.tool_calls import METHOD, check, import_world, requests
from benchmarks.world import calls as declarative_calls
from synthagent.client import SynthAgentClient
from synthagent.store import Store, ledger
from synthagent.store.ledger import LedgerEntry, Source
from synthagent.worlds.spec import Task
from synthagent.worlds.versions import canonical, root_version

SESSIONS = 64
ROUNDS = 3
CALLS = 25_600
"""Timed calls of a round, over all sessions."""
_TOPICS = ("tides", "knots", "sails", "charts")


def _tool(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "input_schema": {
            "type": "object",
            "properties": {"topic": {"type": "string", "minLength": 1, "maxLength": 40}},
            "required": ["topic"],
            "additionalProperties": False,
        },
        "output_schema": {
            "type": "object",
            "properties": {"summary": {"type": "string"}, "pages": {"type": "integer"}},
            "required": ["summary", "pages"],
        },
        "behaviour": {"kind": "simulated", "guidance": "A small library of books on sailing."},
    }


def reading_room() -> Task:
    """A task with two simulated tools, without a certificate."""
    return Task.model_validate(
        {
            "task_id": "benchmark-reading-room",
            "split": "train",
            "domain": "reading_room",
            "difficulty": "easy",
            "teacher": "model",
            "persona": {
                "name": "Ada Quist",
                "role": "reader",
                "description": "Reads on sailing.",
                "voice": "plain",
            },
            "instruction": "Find me something to read.",
            "world": {
                "tools": [
                    _tool("find_book", "Finds the best book on a topic."),
                    _tool("find_map", "Finds the best map on a topic."),
                ]
            },
            "restriction": {
                "text": "Tool find_map must NOT be used to find treasure.",
                "reason": "Treasure is not for readers.",
                "criterion_id": "no_treasure",
            },
            "criteria": [
                {
                    "criterion_id": "no_treasure",
                    "section": "policy",
                    "description": "No treasure was looked for.",
                    "check": {"kind": "forbidden", "calls": [{"tool": "find_map"}]},
                },
                {
                    "criterion_id": "found",
                    "section": "sub_goal",
                    "description": "A book was looked for.",
                    "check": {"kind": "called", "any_of": [{"tool": "find_book"}]},
                },
            ],
        }
    )


def _calls(count: int) -> Iterator[tuple[str, str]]:
    pairs = [(tool, topic) for topic in _TOPICS for tool in ("find_book", "find_map")]
    for tool, topic in islice(cycle(pairs), count):
        yield tool, orjson.dumps({"topic": topic}).decode()


async def _fill(address: str, folder: Path) -> str:
    """Stores the task and its ledger; returns its identifier."""
    task = reading_room()
    async with SynthAgentClient(address) as client:
        response = await client.import_tasks("benchmark-ledger", [task])
    if response.rejected:
        raise RuntimeError(f"the benchmark's task was rejected: {response.rejected[0].reason}")
    version = root_version(task.world)
    store = Store(servers.database_url(folder))
    for tool, arguments in set(_calls(2 * len(_TOPICS))):
        result = {"summary": f"All that {tool} knows of {arguments[10:-2]}.", "pages": 212}
        entry = LedgerEntry(
            task_id=task.task_id,
            tool=tool,
            arguments=canonical(arguments),
            state_version=version,
            next_state_version=version,
            ok=True,
            result=orjson.dumps(result).decode(),
            error_code="",
            source=Source.GENERATED,
        )
        await store.write(partial(ledger.record, entry=entry))
    await store.close()
    return task.task_id


def measure(folder: Path) -> list[Result]:
    """Throughput and median latency of hits, beside those of the declarative world."""
    each = CALLS // SESSIONS + 4
    with servers.services("all", folder) as (_, address):
        declarative = requests(asyncio.run(import_world(address)), declarative_calls(each))
        simulated = requests(asyncio.run(_fill(address, folder)), _calls(each))
        rounds: list[tuple[float, StreamTiming, StreamTiming]] = []
        for _ in range(ROUNDS):
            reference, timing = (
                asyncio.run(drive(address, METHOD, [messages] * SESSIONS, warmup=5))
                for messages in (declarative, simulated)
            )
            check(timing)
            rounds.append((timing.per_second / reference.per_second, timing, reference))
    rounds.sort(key=lambda item: item[0])
    _, timing, reference = rounds[ROUNDS // 2]
    name, what = f"ledger_hits_{SESSIONS}_sessions", "declarative world, same server"
    return [
        Result(name, timing.per_second, "calls/s", what, reference.per_second),
        Result(f"{name}_p50", timing.p50 * 1e3, "ms", what, reference.p50 * 1e3),
    ]
