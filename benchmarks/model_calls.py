"""What our roles add to a call of a model server: median latency at 32 in flight.

The replay server answers after a fixed delay. The reference sends it the very prompt that a role
sends, over a bare HTTP client; the role is asked over gRPC and sends it through the door, with its
checks, metrics and both stores. Rounds alternate, and the one with the median difference counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2

from benchmarks import servers
from benchmarks.results import Result
from benchmarks.tool_calls import import_world
from synthagent.client import SynthAgentClient
from synthagent.worlds.episode import EpisodeEnd, EpisodeOutcome, Event
from synthagent.worlds.protocol import answer_turn, message_turn

IN_FLIGHT = 32
CALLS = 6
"""Timed calls of each of those in flight, in a round."""

ROUNDS = 3
DELAY = 1.0
"""Seconds of an answer: about those of a sentence from a small model that serves 32 at a time."""

GOAL_MILLISECONDS = 10.0

Call = Callable[[str], Awaitable[object]]


async def _median(call: Call, name: str) -> float:
    """The median latency of calls, in seconds. The first of each caller is not counted.

    Callers start one after the other, evenly over the delay, so that they do not stay in step.
    """
    latencies: list[float] = []

    async def caller(number: int) -> None:
        await asyncio.sleep(DELAY * number / IN_FLIGHT)
        for turn in range(CALLS + 1):
            begun = time.perf_counter()
            await call(f"{name}-{number}-{turn}")
            if turn:
                latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*map(caller, range(IN_FLIGHT)))
    latencies.sort()
    return latencies[len(latencies) // 2]


def _roles(client: SynthAgentClient, task_id: str) -> dict[str, Call]:
    """One call of a model each."""
    message = (Event(sequence=0, body=message_turn("Which part number do you need?")),)
    judged = (
        Event(sequence=0, body=answer_turn("Taken; 34 units are left.")),
        Event(sequence=1, body=EpisodeEnd(outcome=EpisodeOutcome.ANSWERED)),
    )
    return {
        "user": lambda name: client.reply(name, task_id, message),
        "judge": lambda name: client.judge_criterion(name, task_id, judged, "shown"),
    }


async def _measure(address: str, base_url: str) -> list[Result]:
    task_id = await import_world(address)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=IN_FLIGHT)
    async with (
        SynthAgentClient(address) as client,
        httpx2.AsyncClient(base_url=f"{base_url}/", limits=limits) as http,
    ):
        results = []
        for role, call in _roles(client, task_id).items():
            await call(f"{role}-first")
            asked = (await http.get("replay/last")).content  # the prompt that the role sends

            async def bare(_: str, asked: bytes = asked) -> None:
                (await http.post("chat/completions", content=asked)).raise_for_status()

            rounds = [
                (await _median(bare, ""), await _median(call, f"{role}-{number}"))
                for number in range(ROUNDS)
            ]
            rounds.sort(key=lambda pair: pair[1] - pair[0])
            reference, ours = rounds[ROUNDS // 2]
            results += _rows(role, 1e3 * ours, 1e3 * reference)
    return results


def _rows(role: str, ours: float, reference: float) -> list[Result]:
    name = f"{role}_call_{IN_FLIGHT}_in_flight"
    goal = f"goal: at most {GOAL_MILLISECONDS:.0f} ms"
    return [
        Result(f"{name}_p50", ours, "ms", "the bare model server", reference),
        Result(
            f"{name}_added_p50",
            ours - reference,
            "ms",
            goal,
            GOAL_MILLISECONDS,
            1.0,
            at_least=False,
        ),
    ]


def measure(folder: Path) -> list[Result]:
    """Median latency of user and judge, and what they add to the bare model server's."""
    with (
        servers.replay(DELAY) as roles,
        servers.services("all", folder, environment=roles | {"SYNTHAGENT_JUDGE_VOTES": "1"}) as (
            _,
            address,
        ),
    ):
        return asyncio.run(_measure(address, roles["SYNTHAGENT_USER__BASE_URL"]))
