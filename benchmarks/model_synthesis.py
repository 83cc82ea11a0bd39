"""What an admitted task of the model teacher takes, with the replay server in every role.

The replay server answers at once, so the seconds are those of our own work: prompts, checks, gates,
attempts, judgement and database. Tokens are counted as the replay server counts them, four
characters each, over all calls of the teacher, of rejected items too.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks import servers
from benchmarks.results import Result
from synthagent.api.v1 import task_pb2
from synthagent.client import SynthAgentClient
from synthagent.worlds.spec import Split, Task
from tests.replay.products import load

_PAPER_TOKENS = 25_278.0
"""Synthesis tokens of a task in SYNTHAGENT."""

_NAME = "benchmark-model"


async def _synthesize(address: str) -> tuple[float, float]:
    """Seconds and tokens for each admitted task: one of every product with simulated tools."""
    personas = [
        task_pb2.Persona(**product.persona.model_dump())
        for product in load().values()
        if not product.is_sql
    ]
    teacher = task_pb2.ModelTeacher(attempts=4, min_solutions=2, persona_set=_NAME)
    async with SynthAgentClient(address) as client:
        await client.import_personas(f"{_NAME}-personas", _NAME, personas)
        started = time.perf_counter()
        admitted = 0
        async for item in client.synthesize_tasks(_NAME, len(personas), Split.TRAIN, model=teacher):
            admitted += isinstance(item, Task)
        seconds = time.perf_counter() - started
        synthesis = await client.get_synthesis(_NAME)
    if not admitted:
        raise RuntimeError(f"no product was admitted: {synthesis.progress}")
    return seconds / admitted, synthesis.tokens_per_admitted


def measure(folder: Path) -> list[Result]:
    """Seconds and tokens of an admitted task."""
    with (
        servers.replay() as roles,
        servers.services("all", folder, environment=roles) as (_, address),
    ):
        seconds, tokens = asyncio.run(_synthesize(address))
    return [
        Result("model_task_seconds", seconds, "s/task", "goal: at most 10 s", 10.0),
        Result("model_task_tokens", tokens, "tokens/task", "SYNTHAGENT's paper", _PAPER_TOKENS),
    ]
