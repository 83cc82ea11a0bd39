"""Processes killed at random moments: what they leave is gone on with, and comes out the same."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from sqlalchemy import NullPool, create_engine, text

from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.client import SynthAgentClient
from synthagent.store import Store
from synthagent.store.tasks import put
from tests.databases import NewDatabase
from tests.services.rollout.conftest import Serve, certified_tasks, finished, selection

SPEC = pb.RunSpec(
    reference=pb.REFERENCE_AGENT_PESTERER, tasks=selection(), group_size=8, max_turns=40, seed=3
)


@contextmanager
def _process(database: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m services all` on a database, ready; killed at the end if it still runs."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SYNTHAGENT_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "services", "all"],
        env={
            **environment,
            "SYNTHAGENT_DATABASE_URL": database,
            "SYNTHAGENT_PORT": "0",
            "SYNTHAGENT_METRICS_PORT": "none",
            "SYNTHAGENT_MAX_CONCURRENT_EPISODES": "4",
            "SYNTHAGENT_LOG_LEVEL": "warning",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())["address"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def _prepare(database: str) -> None:
    store = Store(database)
    for task in certified_tasks():
        await store.write(partial(put, task=task))
    await store.close()


def _rows(database: str, query: str) -> list[tuple[object, ...]]:
    engine = create_engine(database, poolclass=NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def _logs(database: str) -> list[tuple[object, ...]]:
    """Every event of every episode and its verdict, without times."""
    return [
        *_rows(database, "SELECT trajectory_id, sequence, kind, body FROM event ORDER BY 1, 2"),
        *_rows(database, "SELECT trajectory_id, outcome, reward, verdict FROM episode ORDER BY 1"),
    ]


def _cut_short(database: str) -> int:
    """Episodes that have begun and not ended."""
    return len(
        _rows(
            database,
            "SELECT DISTINCT e.trajectory_id FROM event JOIN episode e USING (trajectory_id) "
            "WHERE e.state = 'running'",
        )
    )


@pytest.mark.parametrize(
    "database_backend",
    # A killed replica on PostgreSQL is in `make test` once: tests/benchmarks/test_cluster.py.
    ["sqlite", pytest.param("postgresql", marks=pytest.mark.replicas)],
    indirect=True,
)
@pytest.mark.timeout(180)
async def test_killed_at_random_moments_a_run_comes_out_the_same(
    serve: Serve, new_database: NewDatabase
) -> None:
    undisturbed, disturbed = new_database(), new_database()
    await _prepare(disturbed)
    async with serve(database_url=undisturbed) as (client, _):
        await client.create_run("run", SPEC)
        assert (await finished(client, "run")).progress.mean_reward == 1.0

    moments = random.Random(20)
    cut_short = []
    for life in range(3):
        with _process(disturbed) as (process, address):
            if life == 0:
                async with SynthAgentClient(address) as client:
                    await client.create_run("run", SPEC)
            await asyncio.sleep(moments.uniform(0.05, 0.35))
            process.send_signal(signal.SIGKILL)
            process.wait()
        cut_short.append(_cut_short(disturbed))
    assert any(cut_short), "no kill came while an episode was running"

    with _process(disturbed) as (_, address):
        async with SynthAgentClient(address) as client:
            run = await finished(client, "run")
    assert run.state == pb.RUN_STATE_SUCCEEDED
    assert run.progress.episodes_invalid == 0
    assert _logs(disturbed) == _logs(undisturbed)
