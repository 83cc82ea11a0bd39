import statistics
from functools import partial
from operator import methodcaller

import pytest
from sqlalchemy import update
from sqlmodel import col

from synthagent.store import Store, leases, runs
from synthagent.store.episodes import EpisodeState
from synthagent.store.runs import RUN_TRANSITIONS, RunState, StoredPolicy
from synthagent.store.tables import EpisodeRow
from tests.synthagent.store.conftest import admit, example_run


async def test_the_first_to_create_a_run_wins(filled: Store) -> None:
    first = await filled.read(lambda c: runs.get(c, "r"))
    assert await filled.write(lambda c: runs.create(c, example_run(digest="other"))) == first
    assert first.spec_digest == "d"
    assert first.task_ids == ("example-court-booking",)
    assert await filled.read(lambda c: runs.get(c, "s")) is None


@pytest.mark.parametrize("source", RunState)
@pytest.mark.parametrize("target", RunState)
async def test_a_state_changes_only_as_the_table_says(
    filled: Store, source: RunState, target: RunState
) -> None:
    if source is not RunState.RUNNING:
        assert await filled.write(lambda c: runs.change_state(c, "r", source))
    moved = await filled.write(lambda c: runs.change_state(c, "r", target))
    assert moved == (target in RUN_TRANSITIONS[source])
    found = await filled.read(lambda c: runs.in_state(c, target if moved else source))
    assert [run.run_id for run in found] == ["r"]


async def test_admitting_again_changes_nothing(filled: Store) -> None:
    await filled.write(lambda c: admit(c, "r", 0, 0))
    await filled.write(lambda c: leases.claim(c, "me", 10**9, 1))
    await filled.write(lambda c: admit(c, "r", 0, 0))
    assert await filled.read(lambda c: runs.admitted_steps(c, "r")) == 1
    assert await filled.read(leases.owners) == {"me"}
    await filled.write(lambda c: admit(c, "r", 1, 1))
    assert await filled.read(lambda c: runs.admitted_steps(c, "r")) == 2


async def test_progress_leaves_out_what_has_no_reward(filled: Store) -> None:
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
        statement = update(EpisodeRow).where(col(EpisodeRow.trajectory_id) == name).values(ended)
        await filled.write(methodcaller("execute", statement))
    progress = await filled.read(lambda c: runs.progress(c, "r"))
    valid = [reward for reward in rewards if reward is not None]
    assert (progress.ended, progress.invalid, progress.policy_tokens) == (4, 1, 28)
    assert progress.mean_reward == pytest.approx(statistics.mean(valid))
    assert progress.reward_sem == pytest.approx(statistics.stdev(valid) / 3**0.5)


async def test_the_newest_version_of_a_policy_is_found(store: Store) -> None:
    assert await store.read(lambda c: runs.latest_policy(c, "default")) is None
    for version in (1, 10, 9):
        policy = StoredPolicy("default", version, f"/w{version}", "0" * 64)
        await store.write(partial(runs.create_policy, policy=policy))
    latest = await store.read(lambda c: runs.latest_policy(c, "default"))
    assert latest == StoredPolicy("default", 10, "/w10", "0" * 64)
    assert await store.read(lambda c: runs.policy_version(c, "default", 2)) is None
