import statistics

import pytest
from sqlalchemy import update

from synthagent.store import Store, episodes, runs
from synthagent.store.episodes import EpisodeState
from synthagent.store.runs import RUN_TRANSITIONS, RunState, StoredGroup, StoredPolicy, StoredRun
from synthagent.store.tables import EpisodeRow
from synthagent.store.tasks import put
from synthagent.worlds.certify import certify
from tests.example_task import example_task


def _run(run_id: str = "r", digest: str = "d") -> StoredRun:
    return StoredRun(run_id, "{}", digest, ("example-court-booking",), RunState.RUNNING, 5)


def admit(connection, run_id: str, step: int, ordinal: int, size: int = 2) -> None:
    """One group of `size` pending episodes."""
    group = StoredGroup(f"{run_id}.{ordinal}", run_id, step, ordinal, "example-court-booking")
    rows = [
        episodes.pending_row(
            trajectory_id=f"{run_id}.{ordinal}.{index}",
            run_id=run_id,
            group_id=group.group_id,
            index=index,
            task_id=group.task_id,
            split="train",
            agent="gold",
            admitted_at=10 * ordinal + index,
        )
        for index in range(size)
    ]
    runs.admit(connection, [group], rows)


@pytest.fixture
async def filled(store: Store) -> Store:
    """A store with the example task and a run "r"."""
    task = example_task()
    certified = task.model_copy(update={"certificate": certify(task)})
    await store.write(lambda c: put(c, certified))
    await store.write(lambda c: runs.create(c, _run()))
    return store


async def test_the_first_to_create_a_run_wins(filled: Store):
    first = await filled.read(lambda c: runs.get(c, "r"))
    assert await filled.write(lambda c: runs.create(c, _run(digest="other"))) == first
    assert first.spec_digest == "d"
    assert first.task_ids == ("example-court-booking",)
    assert await filled.read(lambda c: runs.get(c, "s")) is None


@pytest.mark.parametrize("source", RunState)
@pytest.mark.parametrize("target", RunState)
async def test_a_state_changes_only_as_the_table_says(filled: Store, source, target):
    if source is not RunState.RUNNING:
        assert await filled.write(lambda c: runs.change_state(c, "r", source))
    moved = await filled.write(lambda c: runs.change_state(c, "r", target))
    assert moved == (target in RUN_TRANSITIONS[source])
    found = await filled.read(lambda c: runs.in_state(c, target if moved else source))
    assert [run.run_id for run in found] == ["r"]


async def test_admitting_again_changes_nothing(filled: Store):
    await filled.write(lambda c: admit(c, "r", 0, 0))
    await filled.write(lambda c: episodes.claim(c, "me", 10**18, 1))
    await filled.write(lambda c: admit(c, "r", 0, 0))
    assert await filled.read(lambda c: runs.admitted_steps(c, "r")) == 1
    assert await filled.read(lambda c: episodes.held(c, "me")) == {"r.0.0"}
    await filled.write(lambda c: admit(c, "r", 1, 1))
    assert await filled.read(lambda c: runs.admitted_steps(c, "r")) == 2


async def test_progress_leaves_out_what_has_no_reward(filled: Store):
    rewards = [0.1, 0.7, 1.0, None]
    await filled.write(lambda c: admit(c, "r", 0, 0, size=5))
    for number, reward in enumerate(rewards):
        ended = {
            "state": EpisodeState.ENDED.value,
            "reward": reward,
            "invalid_reason": None if reward is not None else "judge_fault",
            "completion": number + 1,
            "policy_tokens": 7,
        }
        name = f"r.0.{number}"
        statement = update(EpisodeRow).where(EpisodeRow.trajectory_id == name).values(ended)
        await filled.write(lambda c, s=statement: c.execute(s) and None)
    progress = await filled.read(lambda c: runs.progress(c, "r"))
    valid = [reward for reward in rewards if reward is not None]
    assert (progress.ended, progress.invalid, progress.policy_tokens) == (4, 1, 28)
    assert progress.mean_reward == pytest.approx(statistics.mean(valid))
    assert progress.reward_sem == pytest.approx(statistics.stdev(valid) / 3**0.5)


async def test_the_first_to_name_a_batch_wins(filled: Store):
    await filled.write(lambda c: runs.create_batch(c, "r", 0, "r.step-0", ["a", "b"]))
    await filled.write(lambda c: runs.create_batch(c, "r", 0, "r.step-0", ["c"]))
    assert await filled.read(lambda c: runs.batch(c, "r", 0)) == ("a", "b")
    assert await filled.read(lambda c: runs.batch(c, "r", 1)) is None


async def test_the_newest_version_of_a_policy_is_found(store: Store):
    assert await store.read(lambda c: runs.latest_policy(c, "default")) is None
    for version in (1, 10, 9):
        policy = StoredPolicy("default", version, f"/w{version}", "0" * 64)
        await store.write(lambda c, p=policy: runs.create_policy(c, p))
    latest = await store.read(lambda c: runs.latest_policy(c, "default"))
    assert (latest.version, latest.weights_path) == (10, "/w10")
    assert await store.read(lambda c: runs.policy_version(c, "default", 2)) is None
