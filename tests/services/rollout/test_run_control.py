import asyncio
from pathlib import Path

from services.rollout.agents import ReferenceAgent
from services.rollout.changes import Changes
from services.rollout.policies import Policies
from services.rollout.run_control import RunControl
from services.rollout.scheduler import Scheduler
from services.rollout.spec import RunSpec, Selection, Training
from synthagent.llm import Models
from synthagent.metrics import ServerMetrics
from synthagent.settings import load_settings
from synthagent.store import Store, runs, upgrade
from synthagent.store.runs import RunState
from synthagent.store.tasks import put
from tests.services.rollout.conftest import certified_tasks

WINDOW = 2


def _control(store: Store) -> RunControl:
    """The runs as one replica sees them; nothing is run."""
    metrics = ServerMetrics()
    settings = load_settings()
    policies = Policies(store, settings, metrics)
    scheduler = Scheduler(store, metrics, owner="here/1/a", limit=WINDOW)
    models = Models(settings, store, metrics)
    return RunControl(store, policies, models, scheduler, Changes(), window=WINDOW)


async def test_a_run_cancelled_elsewhere_leaves_the_others_their_turn(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/synthagent.db"
    upgrade(url)
    store = Store(url)
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
