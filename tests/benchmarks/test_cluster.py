"""Several replicas of every service on PostgreSQL, killed, frozen and added under load.

The same runs are made twice: undisturbed, and while processes die, stand still and join, and the
database restarts. Both end with the same verdicts on the same event logs, and tool sessions that
are open all the while go on. Faults of every other kind: `tests/benchmarks/chaos`.
"""

import asyncio
import random
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.driving import Driver, Plan, Sessions, run_id, synthesize
from benchmarks.chaos.evidence import Evidence
from benchmarks.chaos.invariants import INVARIANTS, Expected
from benchmarks.cluster import SERVICES, Cluster
from synthagent.store.database import open_engine


def strike(cluster: Cluster, chance: random.Random, number: int) -> str:
    """One fault, or one replica more; returns what it was."""
    kind = ("kill", "add", "freeze", "database", "restart")[number % 5]
    service = SERVICES[(number // 5 + number) % len(SERVICES)]
    replicas = [replica for replica in cluster.living(service) if not replica.frozen]
    chosen = chance.choice(replicas)
    if kind == "database":
        cluster.postgresql.restart(away_seconds=1.0)
    elif kind == "add" or len(replicas) == 1:
        cluster.add(service)
    elif kind == "kill":
        cluster.kill(chosen)
    elif kind == "restart":
        cluster.restart(chosen)
    else:
        cluster.freeze(chosen)
    return f"{kind} {service}"


def thaw_all(cluster: Cluster) -> None:
    """Lets the frozen go on: they find that their episodes are others' now."""
    for replica in cluster.living():
        cluster.thaw(replica)


async def compare(cluster: Cluster, plan: Plan, *, faults: int) -> list[str]:
    """Makes the runs twice and compares them; returns the faults that struck the second time."""
    chance = random.Random(7)
    struck: list[str] = []
    async with cluster.client() as client:
        tasks = await synthesize(client, plan.tasks)
        driver = Driver(client, plan, [task.task_id for task in tasks])
        await driver.run("calm")
        first = [driver.heard.named[run_id("calm", 0, "GOLD"), step] for step in range(plan.steps)]
        episodes = [await client.get_trajectory(each) for ids in first for each in ids]
        sessions = Sessions(client, episodes, driver.heard)
        held = [asyncio.create_task(sessions.keep(number)) for number in range(8)]
        disturbed = asyncio.create_task(driver.run("rough"))
        for number in range(faults):
            struck.append(await asyncio.to_thread(strike, cluster, chance, number))
            await asyncio.sleep(2.0)
            if number % 5 == 4:
                await asyncio.to_thread(thaw_all, cluster)
        await asyncio.to_thread(thaw_all, cluster)
        before = driver.heard.session_calls
        await disturbed
        await asyncio.sleep(1.0)
        sessions.stop = True
        await asyncio.gather(*held)
        assert driver.heard.session_calls > before  # they go on after the last fault
        assert driver.heard.wrong == []
    assert violations(cluster, plan, driver) == []
    return struck


def violations(cluster: Cluster, plan: Plan, driver: Driver) -> list[str]:
    """What the database holds that it must not."""
    engine = open_engine(cluster.database_url)
    with engine.connect() as connection:
        evidence = Evidence.read(connection)
    engine.dispose()
    expected = Expected(
        twins=dict(zip(plan.run_ids("rough"), plan.run_ids("calm"), strict=True)),
        named=driver.heard.named,
        tasks_digest=evidence.tasks_digest,
    )
    assert sum(len(evidence.episodes[run]) for run in expected.twins) == plan.episodes
    return [each for invariant in INVARIANTS for each in invariant(evidence, expected)]


@pytest.mark.timeout(240)
async def test_two_replicas_of_each_of_which_one_is_killed(tmp_path: Path) -> None:
    plan = Plan(waves=1, steps=2, groups_per_step=1, group_size=3, tasks=2)
    with Cluster(tmp_path, replicas=2) as cluster:
        assert await compare(cluster, plan, faults=2)


@pytest.mark.replicas
@pytest.mark.timeout(600)
async def test_three_replicas_of_each_under_every_fault(tmp_path: Path) -> None:
    plan = Plan(waves=1, steps=4, groups_per_step=2, group_size=8, tasks=8)
    with Cluster(tmp_path, replicas=3) as cluster:
        struck = await compare(cluster, plan, faults=25)
        assert {name.partition(" ")[0] for name in struck} == {
            "kill", "add", "freeze", "database", "restart",
        }  # fmt: skip


def test_the_clock_of_a_running_replica_jumps_and_is_right_again(tmp_path: Path) -> None:
    with Cluster(tmp_path, replicas=1, services=["tool_mock"]) as cluster:
        (replica,) = cluster.living()

        def logged_hour() -> str:
            """What the replica's clock said when it last wrote a line, as it starts to drain."""
            return replica.log.read_text().splitlines()[-1][:13]

        cluster.jump(replica, 7200.0)
        time.sleep(0.5)
        assert psutil.pid_exists(replica.pid)
        cluster.drain(replica)
        jumped = time.gmtime(time.time() + 7200)
        assert logged_hour() == time.strftime("%Y-%m-%dT%H", jumped)
