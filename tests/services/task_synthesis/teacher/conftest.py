"""A teacher behind the real door, with a real server that plays products by the step's name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.task_synthesis.teacher import ModelTeacher
from synthagent.llm import Models
from synthagent.metrics import ServerMetrics
from synthagent.settings import ModelRole, Settings
from synthagent.store import Store, upgrade
from synthagent.worlds.certify import certify
from synthagent.worlds.spec import Certificate, Task
from tests.services.task_synthesis.teacher.products import Json
from tests.synthagent.llm.server import ModelServer, Received, completion, response, serving

Script = dict[str, list[Json | str]]
"""What is answered to each step, in turn; the last one for ever."""


def step_of(request: Received) -> str:
    """The step of a request, which the first line of its prompt names."""
    first = str(request.body["messages"][1]["content"]).split("\n", 1)[0]
    return first.removeprefix("Step: ")


@dataclass
class Classroom:
    """A teacher and the server that it asks."""

    teacher: ModelTeacher
    server: ModelServer

    @property
    def asked(self) -> list[str]:
        """The steps asked for, in order."""
        return [step_of(request) for request in self.server.requests]

    def prompts(self, step: str) -> list[str]:
        """The last message of each request of a step."""
        return [
            str(request.body["messages"][-1]["content"])
            for request in self.server.requests
            if step_of(request) == step
        ]


OpenClassroom = Callable[[Script], AbstractAsyncContextManager[Classroom]]


async def certify_here(task: Task) -> Certificate:
    return await asyncio.to_thread(certify, task)


@pytest.fixture
def classroom(tmp_path: Path) -> OpenClassroom:
    """Opens a teacher whose server answers by a script; the same store again for the same test."""

    @asynccontextmanager
    async def opened(script: Script) -> AsyncIterator[Classroom]:
        left: dict[str, list[Any]] = {step: list(said) for step, said in script.items()}

        async def act(received: Received, writer: asyncio.StreamWriter) -> None:
            turns = left[step_of(received)]
            said = turns.pop(0) if len(turns) > 1 else turns[0]
            text = said if isinstance(said, str) else json.dumps(said)
            body = completion(text, prompt_tokens=100, completion_tokens=10)
            writer.write(response(200, json.dumps(body).encode()))
            await writer.drain()

        url = f"sqlite:///{tmp_path}/teacher.db"
        upgrade(url)
        store = Store(url)
        async with serving(act) as server:
            role = ModelRole(base_url=server.base_url, model="m", attempts=1, max_tokens=4096)
            models = Models(Settings(database_url=url, teacher=role), store, ServerMetrics())
            try:
                yield Classroom(ModelTeacher(models.need("teacher"), certify_here), server)
            finally:
                await models.close()
                await store.close()

    return opened
