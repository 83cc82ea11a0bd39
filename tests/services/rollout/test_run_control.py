import asyncio
from functools import partial

import pytest

from services.rollout.agents import ReferenceAgent
from services.rollout.changes import Changes
from services.rollout.policies import Policies
from services.rollout.run_control import RunControl
from services.rollout.scheduler import Scheduler
from services.rollout.spec import PolicyAgentSpec, RunSpec, Selection, Training
from synthagent.llm import Models
from synthagent.metrics import ServerMetrics
from synthagent.settings import load_settings
from synthagent.store import Store, runs
from synthagent.store.database import now
from synthagent.store.runs import RunState, StoredPolicy, StoredRun
from synthagent.store.tasks import put
from synthagent.tokens import Sampling
from tests.databases import on_both_databases
from tests.services.rollout.conftest import certified_tasks

pytestmark = on_both_databases

WINDOW = 2


def _control(store: Store, window: int = WINDOW) -> RunControl:
    """The runs as one replica sees them; nothing is run."""
    metrics = ServerMetrics()
    settings = load_settings()
    policies = Policies(store, settings, metrics)
    scheduler = Scheduler(store, metrics, owner="here/1/a", limit=window)
    models = Models(settings, store, metrics)
    return RunControl(store, policies, models, scheduler, Changes(), window=window)


async def test_a_run_cancelled_elsewhere_leaves_the_others_their_turn(database_url: str) -> None:
    store = Store(database_url)
    task = certified_tasks()[0]
    await store.write(lambda c: put(c, task))
    spec = RunSpec(
        reference=ReferenceAgent.GOLD,
        tasks=Selection(task_ids=(task.task_id,)),
        training=Training(steps=50, groups_per_step=1),
    )
    here, elsewhere = _control(store), _control(store)
    for run_id in ("first", "second"):
        await here.create(run_id, spec)
    await here.admit_due()
    assert await store.read(lambda c: runs.admitted_steps(c, "first")) == WINDOW

    assert (await elsewhere.cancel("first")).run.state is RunState.CANCELLED
    await elsewhere.create("third", spec)
    async with asyncio.timeout(10):
        await here.admit_due()
    assert await store.read(lambda c: runs.admitted_steps(c, "first")) == WINDOW
    assert await store.read(lambda c: runs.admitted_steps(c, "second")) == WINDOW
    await store.close()


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
async def test_no_step_is_admitted_that_could_become_too_old(
    database_url: str, max_staleness: int
) -> None:
    """Over two replicas, of which one begins anew at each version."""
    store = Store(database_url)
    task = certified_tasks()[0]
    await store.write(lambda c: put(c, task))
    steps, first = 6, 2
    spec = RunSpec(
        policy=PolicyAgentSpec(sampling=Sampling(temperature=1.0, top_p=1.0, max_turn_tokens=8)),
        tasks=Selection(task_ids=(task.task_id,)),
        training=Training(
            steps=steps,
            groups_per_step=3,
            max_staleness=max_staleness,
            first_policy_version=first,
        ),
    )
    run = StoredRun("r", spec.canonical, "", (task.task_id,), RunState.RUNNING, now())
    await store.write(lambda c: runs.create(c, run))
    one = _control(store, window=1000)
    for version in range(first, first + steps):
        published = StoredPolicy("default", version, "nowhere", "0" * 64)
        await store.write(partial(runs.create_policy, policy=published))
        restarted = _control(store, window=1000)
        await asyncio.gather(one.admit_due(), restarted.admit_due())
        # Step k trains version first + k and may hold tokens max_staleness versions older.
        admitted = await store.read(lambda c: runs.admitted_steps(c, "r"))
        assert admitted == min(steps, version - first + max_staleness + 1)
    await store.close()
