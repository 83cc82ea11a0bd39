from sqlalchemy import update
from sqlmodel import col

from synthagent.store import Store, episodes, leases
from synthagent.store.episodes import EpisodeState
from synthagent.store.tables import EpisodeRow

FAR = 10**9


async def test_episodes_are_taken_in_order_and_again_when_the_lease_ends(
    admitted: Store,
) -> None:
    first = await admitted.write(lambda c: leases.claim(c, "me", FAR, 3))
    assert [episode.trajectory_id for episode in first] == ["r.0.0", "r.0.1", "r.1.0"]
    assert all(episode.fresh for episode in first)
    rest = await admitted.write(lambda c: leases.claim(c, "you", FAR, 3))
    assert [episode.trajectory_id for episode in rest] == ["r.1.1"]
    await admitted.write(lambda c: leases.give_back(c, "me"))
    taken_over = await admitted.write(lambda c: leases.claim(c, "you", FAR, 9))
    assert {episode.trajectory_id for episode in taken_over} == {"r.0.0", "r.0.1", "r.1.0"}
    assert not any(episode.fresh for episode in taken_over)
    assert await admitted.read(leases.owners) == {"you"}


async def test_a_released_episode_waits_for_its_time(admitted: Store) -> None:
    await admitted.write(lambda c: leases.claim(c, "me", FAR, 9))
    await admitted.write(lambda c: leases.release(c, "r.0.0", "me", 10))
    await admitted.write(lambda c: leases.release(c, "r.0.1", "me", 0))
    await admitted.write(lambda c: leases.release(c, "r.1.0", "you", 0))
    again = await admitted.write(lambda c: leases.claim(c, "me", FAR, 9))
    assert [episode.trajectory_id for episode in again] == ["r.0.1"]


async def test_only_leases_of_what_runs_are_renewed(admitted: Store) -> None:
    await admitted.write(lambda c: leases.claim(c, "me", -1, 3))
    await admitted.write(lambda c: leases.renew(c, "me", FAR, ["r.0.0", "r.0.1"]))
    await admitted.write(lambda c: leases.renew(c, "you", FAR, ["r.1.0"]))
    taken = await admitted.write(lambda c: leases.claim(c, "you", FAR, 9))
    assert {episode.trajectory_id for episode in taken} == {"r.1.0", "r.1.1"}


async def test_what_was_cancelled_or_taken_is_lost_and_what_ended_is_not(admitted: Store) -> None:
    await admitted.write(lambda c: leases.claim(c, "me", FAR, 3))
    await admitted.write(lambda c: leases.claim(c, "you", FAR, 1))
    mine = ["r.0.0", "r.0.1", "r.1.0"]
    assert await admitted.read(lambda c: leases.lost(c, "me", [*mine, "r.1.1"])) == {"r.1.1"}
    ended = update(EpisodeRow).where(col(EpisodeRow.trajectory_id) == "r.0.0")
    await admitted.write(lambda c: c.execute(ended.values(state=EpisodeState.ENDED.value)))
    assert await admitted.read(lambda c: leases.lost(c, "me", mine)) == set()
    await admitted.write(lambda c: episodes.cancel(c, "r"))
    assert await admitted.read(lambda c: leases.lost(c, "me", mine)) == {"r.0.1", "r.1.0"}


async def test_the_queue_is_as_old_as_the_episode_that_waits_longest(admitted: Store) -> None:
    await admitted.write(lambda c: leases.claim(c, "me", FAR, 9))
    assert await admitted.read(leases.queue_age) == 0.0
    await admitted.write(lambda c: leases.release(c, "r.0.0", "me", -20))
    await admitted.write(lambda c: leases.release(c, "r.0.1", "me", -60))
    assert 60 <= await admitted.read(leases.queue_age) < 65
    await admitted.write(lambda c: leases.give_back(c, "me"))  # the others are given back, just now
    assert 60 <= await admitted.read(leases.queue_age) < 65
