"""kill -9 of trainer, services and engine at random moments: the run comes out the same.

`make test-kills`. Two settings in which a run is exact to the last bit are held against the same
run undisturbed; in both, each process computes with one thread in float32, and the engine is
deterministic (each episode alone, its noise from its own seed):

- synchronous, with the engine in the rollout service: each step samples with the version before it;
- asynchronous, with an engine of its own that keeps the weights that it was started with: which
  version samples a turn depends on when an update arrives, and so, then, would its tokens.

A third run is asynchronous and samples with what it learns: the steps and their trajectories are
held against the undisturbed run's, and no token may be older than `max_staleness` allows.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from synthagent.client import SynthAgentClient
from tests.kills.processes import GROUP_SIZE, GROUPS, STEPS, Deployment
from trainer.batch_log import TrainedBatch, read_batches
from trainer.metrics import read_rows

SEED = 4
KILLS = 20
WATCH_SECONDS = 0.02
LONGEST_SECONDS = 1200.0

Record = tuple[object, ...]


async def _finish(deployment: Deployment) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not deployment.tend():
        assert time.monotonic() < deadline, "the run does not end"
        await asyncio.sleep(WATCH_SECONDS)


async def _disturb(deployment: Deployment, kills: int, moments: random.Random, events: int) -> None:
    """Kills processes while the run makes its events, and starts them again at once."""
    # The trainer takes longest to start: every fourth kill is its own.
    others = [name for name in deployment.names if name != "trainer"]
    victims = [others[number % len(others)] if number % 4 else "trainer" for number in range(kills)]
    moments.shuffle(victims)
    marks = sorted(moments.randrange(int(events * 0.95)) for _ in range(kills))
    began = time.monotonic()
    for victim, mark in zip(victims, marks, strict=True):
        while deployment.events() < mark:
            assert not deployment.tend(), "the run ended before its last kill"
            await asyncio.sleep(WATCH_SECONDS)
        # Behind the mark come credit, update, publication and checkpoint, too.
        await asyncio.sleep(moments.uniform(0.0, 0.5))
        assert not deployment.tend()
        deployment.kill(victim)
        at = time.monotonic() - began
        print(f"{at:6.1f} s: killed {victim} at event {deployment.events()} of {events}")  # noqa: T201 - the moments are part of the result
        deployment.start(victim)


def _names(batch: TrainedBatch, ids: tuple[str, ...]) -> list[str]:
    """Identifiers without the run's name, which is another for each run."""
    run_id = batch.batch_id.rpartition(".step-")[0]
    assert all(name.startswith(f"{run_id}.") for name in ids)
    return [name.removeprefix(f"{run_id}.") for name in ids]


def _trained(deployment: Deployment) -> list[Record]:
    """What each step trained on, and what came of it, as a user reads it from the run's folder."""
    rows = [row for row in read_rows(deployment.run / "metrics.jsonl") if row["stage"] == "rl"]
    batches = read_batches(deployment.run / "batches.jsonl")
    assert [row["step"] for row in rows] == [batch.step for batch in batches]
    return [
        (
            batch.step,
            _names(batch, batch.trajectory_ids),
            _names(batch, batch.trained_ids),
            row["loss"],
            row["gradient_norm"],
            row["tokens"],
            row["mean_reward"],
            row["invalid"],
        )
        for row, batch in zip(rows, batches, strict=True)
    ]


def _oldest(deployment: Deployment) -> int:
    """Versions between the oldest token that was trained on and the version that trained."""
    rows = read_rows(deployment.run / "metrics.jsonl")
    return max(int(row["staleness_max"]) for row in rows if row["stage"] == "rl")


def _episodes(deployment: Deployment) -> list[Record]:
    """Every event, token and log-probability of every episode, without names and times."""
    connection = sqlite3.connect(f"{deployment.folder}/synthagent.db")
    ordinal = "e.group_id || '.' || e.group_index"
    events = connection.execute(
        f"SELECT {ordinal}, sequence, kind, body FROM event JOIN episode e USING (trajectory_id)"
    ).fetchall()
    tokens = connection.execute(
        f"SELECT {ordinal}, s.ordinal, s.source, s.token_ids, s.logprobs FROM segment s "
        "JOIN episode e USING (trajectory_id)"
    ).fetchall()
    connection.close()
    rows = [(name.partition("-rl.")[2], *rest) for name, *rest in [*events, *tokens]]
    return sorted(rows, key=repr)


async def _stored_batches(deployment: Deployment, batches: list[TrainedBatch]) -> list[Record]:
    """The trajectories of each batch, as the service that stored them tells."""
    found: list[Record] = []
    async with SynthAgentClient(deployment.address) as client:
        for batch in batches:
            run_id, _, step = batch.batch_id.rpartition(".step-")
            async for item in client.stream_batch(run_id, int(step)):
                found.append((batch.step, tuple(item.header.trajectory_ids)))
                break
    return found


def _require_each_once(deployment: Deployment) -> list[TrainedBatch]:
    """No trajectory was trained on twice, and none is missing."""
    batches = read_batches(deployment.run / "batches.jsonl")
    assert [batch.step for batch in batches] == list(range(1, deployment.steps + 1))
    names = [name for batch in batches for name in _names(batch, batch.trajectory_ids)]
    wanted = [f"{g}.{i}" for g in range(deployment.steps * GROUPS) for i in range(GROUP_SIZE)]
    assert sorted(names) == sorted(wanted)
    return batches


async def _compare(
    tmp_path: Path,
    *,
    max_staleness: int,
    separate_engine: bool,
    kills: int,
    steps: int = STEPS,
    exact: bool = True,
) -> None:
    undisturbed, disturbed = (
        Deployment(tmp_path / name, max_staleness, separate_engine, steps)
        for name in ("undisturbed", "disturbed")
    )
    for deployment in (undisturbed, disturbed):
        await deployment.prepare()
    with undisturbed.running():
        await _finish(undisturbed)
    wanted = _trained(undisturbed)
    assert sum(record[3] is not None for record in wanted) > steps / 2, "hardly anything to learn"

    print(f"seed {SEED}, {kills} kills, max_staleness {max_staleness}")  # noqa: T201 - as above
    with disturbed.running():
        await _disturb(disturbed, kills, random.Random(SEED), undisturbed.events())
        await _finish(disturbed)
        batches = _require_each_once(disturbed)
        rows = [(batch.step, batch.trajectory_ids) for batch in batches]
        assert await _stored_batches(disturbed, batches) == rows

    if not exact:
        assert [record[:2] for record in _trained(disturbed)] == [record[:2] for record in wanted]
        assert _oldest(undisturbed) == max_staleness, "no batch was sampled while a step trained"
        assert _oldest(disturbed) <= max_staleness
        return
    assert _trained(disturbed) == wanted
    assert _episodes(disturbed) == _episodes(undisturbed)
    weights = load_file(undisturbed.run / "model" / "model.safetensors")
    for name, found in load_file(disturbed.run / "model" / "model.safetensors").items():
        assert found.equal(weights[name]), name


@pytest.mark.kills
@pytest.mark.timeout(3000)
async def test_a_synchronous_run_survives_kills(tmp_path: Path) -> None:
    await _compare(tmp_path, max_staleness=0, separate_engine=False, kills=KILLS)


@pytest.mark.kills
@pytest.mark.timeout(3000)
async def test_an_asynchronous_run_survives_kills(tmp_path: Path) -> None:
    await _compare(tmp_path, max_staleness=1, separate_engine=True, kills=KILLS)


@pytest.mark.kills
@pytest.mark.timeout(3000)
async def test_an_asynchronous_run_that_samples_what_it_learns_survives_kills(
    tmp_path: Path,
) -> None:
    await _compare(tmp_path, max_staleness=1, separate_engine=False, kills=KILLS, exact=False)
