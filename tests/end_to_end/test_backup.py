"""The commands of docs/operations.md copy a database in use; services on the copy go on."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.__main__ import ServiceName, registers
from synthagent.api.v1 import rollout_pb2
from synthagent.client import SynthAgentClient
from synthagent.postgresql_server import PostgresqlServer, find_programs
from synthagent.server import Running, running
from synthagent.settings import load_settings
from synthagent.worlds.spec import Split, Task
from tests.databases import create

DOCUMENT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
EPISODES = 120
Verdicts = dict[str, float]


def commands(program: str) -> list[str]:
    """The documented commands that begin with this program."""
    return re.findall(rf"^\$ ({program} .+)$", DOCUMENT, re.MULTILINE)


def run(command: str, **variables: str) -> None:
    """Runs a documented command in a shell, with PostgreSQL's programs on the path."""
    path = f"{Path(sys.executable).parent}:{find_programs()}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, check=True, env={**os.environ, "PATH": path, **variables})


@contextmanager
def copies(backend: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """URLs of a database in use, and of the place where its copy will be."""
    if backend == "sqlite":
        yield f"sqlite:///{folder / 'used.db'}", f"sqlite:///{folder / 'copy.db'}"
        return
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    used, copy = create(server), create(server)
    yield server.url(used), server.url(copy)
    for name in (used, copy):
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def back_up_and_restore(used: str, copy: str, folder: Path) -> None:
    if used.startswith("sqlite"):
        (command,) = commands("python")
        files = [url.removeprefix("sqlite:///") for url in (used, copy)]
        given = command.replace("synthagent.db", shlex.quote(files[0]))
        run(given.replace("copy.db", shlex.quote(files[1])))
        return
    (dump,), (restore,) = commands("pg_dump"), commands("pg_restore")
    file = shlex.quote(str(folder / "synthagent.dump"))
    addresses = (url.replace("+psycopg", "") for url in (used, copy))
    variables = dict(zip(("POSTGRESQL_URL", "NEW_POSTGRESQL_URL"), addresses, strict=True))
    for command in (dump, restore):
        run(command.replace("synthagent.dump", file), **variables)


async def verdicts(client: SynthAgentClient) -> Verdicts:
    """The rewards of the run, once it has ended, by trajectory."""
    async for state in client.watch_run("gold"):
        last = state
    assert last.state == rollout_pb2.RUN_STATE_SUCCEEDED
    return {
        each.trajectory_id: each.verdict.reward async for each in client.list_trajectories("gold")
    }


async def begin(server: Running) -> SynthAgentClient:
    """Starts a run and returns when some of its episodes have ended and some have not."""
    client = server.resources.client
    stream = client.synthesize_tasks("some", 6, Split.TRAIN, seed=5, difficulty="mini")
    tasks = [item.task_id async for item in stream if isinstance(item, Task)]
    spec = rollout_pb2.RunSpec(
        reference=rollout_pb2.REFERENCE_AGENT_CARELESS,
        tasks=rollout_pb2.TaskSelection(task_ids=tasks),
        group_size=EPISODES // len(tasks),
    )
    await client.create_run("gold", spec)
    async for state in client.watch_run("gold"):
        if state.progress.episodes_ended:
            break
    return client


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
async def test_a_copy_made_in_the_middle_of_a_run_ends_it_alike(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with copies(backend, tmp_path, request) as (used, copy):
        settings = load_settings(
            database_url=used, port=0, metrics_port=None, drain_seconds=0.1,
            max_concurrent_episodes=4,
        )  # fmt: skip
        async with running(settings, registers(ServiceName.ALL)) as server:
            client = await begin(server)
            await asyncio.to_thread(back_up_and_restore, used, copy, tmp_path)
            undisturbed = await verdicts(client)
        restored = settings.model_copy(update={"database_url": copy})
        async with running(restored, registers(ServiceName.ALL)) as server:
            view = await server.resources.client.get_run("gold")
            assert view.progress.episodes_ended < EPISODES, "the copy was made too late to tell"
            assert await verdicts(server.resources.client) == undisturbed
    assert len(undisturbed) == EPISODES
