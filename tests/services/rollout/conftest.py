"""A real server with the services that an episode needs, and certified tasks in a real database."""

import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, partial

import pytest

from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.client import SynthAgentClient
from synthagent.server import Running, running
from synthagent.settings import load_settings
from synthagent.store.tasks import put
from synthagent.worlds.certify import admit
from synthagent.worlds.compose import Composer
from synthagent.worlds.spec import Split, Task
from tests.databases import NewDatabase
from tests.example_task import example_task

SERVICES = ("tool_mock", "user_simulator", "rubric_judge", "rollout")
Serve = Callable[..., AbstractAsyncContextManager[tuple[SynthAgentClient, Running]]]


@cache
def certified_tasks() -> tuple[Task, ...]:
    """The example task and some composed ones, certified."""
    composer = Composer(Split.TRAIN, "easy")
    return tuple(admit(task) for task in (example_task(), *(composer.task(s) for s in range(4))))


@pytest.fixture
def database_url(new_database: NewDatabase) -> str:
    """The URL of a fresh database with our schema; SQLite, or what the test asks for."""
    return new_database()


@pytest.fixture
def serve(database_url: str) -> Serve:
    """Starts a server on the test's database, with its tasks, and connects a client."""

    @asynccontextmanager
    async def start(
        *services: str, **settings: object
    ) -> AsyncIterator[tuple[SynthAgentClient, Running]]:
        chosen = load_settings(
            **{
                "database_url": database_url,
                "port": 0,
                "metrics_port": None,
                "drain_seconds": 2.0,
                **settings,
            }
        )
        registers = [
            importlib.import_module(f"services.{name}.servicer").register
            for name in services or SERVICES
        ]
        async with running(chosen, registers) as server:
            for task in certified_tasks():
                await server.resources.store.write(partial(put, task=task))
            async with SynthAgentClient(server.address) as client:
                yield client, server

    return start


def selection(count: int | None = None) -> pb.TaskSelection:
    """The first `count` certified tasks."""
    return pb.TaskSelection(task_ids=[task.task_id for task in certified_tasks()[:count]])


async def finished(client: SynthAgentClient, run_id: str) -> pb.Run:
    """The run once it has ended."""
    async for run in client.watch_run(run_id):
        last = run
    return last
