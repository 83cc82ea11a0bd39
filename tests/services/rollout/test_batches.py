import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection

from services.rollout.batches import split
from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.client import SynthAgentClient
from synthagent.errors import Cancelled, InvalidInput, PreconditionFailed, StepOutOfRange
from synthagent.store import runs
from tests.databases import on_both_databases
from tests.services.rollout.conftest import Serve, finished, selection

_WEIGHTS = st.lists(st.integers(1, 5000), min_size=1, max_size=40)


@given(_WEIGHTS, st.integers(1, 9))
def test_every_group_is_on_one_rank_and_the_loads_are_near(
    weights: list[int], world_size: int
) -> None:
    result = split(weights, world_size)
    assert sorted(p for share in result.shares for p in share) == list(range(len(weights)))
    assert all(list(share) == sorted(share) for share in result.shares)
    loads = [sum(weights[p] for p in share) for share in result.shares]
    assert result.imbalance == pytest.approx(max(1.0, max(loads) * world_size / sum(weights)))
    # list scheduling: a rank is above the mean by at most its last, hence lightest, group
    assert max(loads) <= sum(weights) / world_size + max(weights)
    if len(weights) >= world_size:
        assert min(loads) > 0


def test_longest_first_beats_the_order_given() -> None:
    assert split([2, 3, 4, 6, 2, 2], 2).shares == ((0, 3, 5), (1, 2, 4))
    assert split([5, 5, 5, 5], 2).imbalance == 1.0


def test_more_ranks_than_groups_leaves_ranks_empty() -> None:
    assert split([7], 3).shares == ((0,), (), ())
    assert split([7], 3).imbalance == 3.0


def test_refuses_weights_that_would_leave_a_rank_empty() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        split([0, 1], 1)


async def _batch(
    client: SynthAgentClient, run_id: str, step: int, rank: int = 0, world_size: int = 1
) -> list[pb.StreamBatchResponse]:
    stream = client.stream_batch(run_id, step, rank=rank, world_size=world_size)
    return [item async for item in stream]


def _training(**fields: int) -> pb.RunSpec:
    training = pb.TrainingSteps(**{"steps": 4, "groups_per_step": 3, **fields})
    return pb.RunSpec(
        reference=pb.REFERENCE_AGENT_GOLD, tasks=selection(), group_size=2, training=training
    )


@on_both_databases
async def test_a_batch_is_the_same_for_ever(serve: Serve) -> None:
    async with serve() as (client, _):
        await client.create_run("train", _training())
        first = await _batch(client, "train", 2)
        header = first[0].header
        assert header.batch_id == "train.step-2"
        assert list(header.trajectory_ids) == [f"train.{g}.{i}" for g in (6, 7, 8) for i in (0, 1)]
        assert header.rank_trajectories == len(first) - 1 == 6
        assert header.imbalance == 1.0
        assert [item.trajectory.trajectory_id for item in first[1:]] == list(header.trajectory_ids)
    async with serve() as (client, _):
        again = await _batch(client, "train", 2)
    assert [item.SerializeToString(deterministic=True) for item in again] == [
        item.SerializeToString(deterministic=True) for item in first
    ]


@on_both_databases
async def test_ranks_share_a_batch_by_whole_groups(serve: Serve) -> None:
    async with serve() as (client, _):
        await client.create_run("train", _training())
        whole = await _batch(client, "train", 0)
        shares = [await _batch(client, "train", 0, rank, 2) for rank in range(2)]
        ids = [[item.trajectory.trajectory_id for item in share[1:]] for share in shares]
        assert sorted([*ids[0], *ids[1]]) == sorted(whole[0].header.trajectory_ids)
        groups = [{name.rpartition(".")[0] for name in share} for share in ids]
        assert not groups[0] & groups[1]
        assert shares[0][0].header.imbalance == shares[1][0].header.imbalance >= 1.0


@on_both_databases
async def test_every_task_stands_once_in_each_pass(serve: Serve) -> None:
    async with serve() as (client, _):
        await client.create_run("train", _training(steps=5, groups_per_step=2))
        seen = []
        for step in range(5):
            batch = await _batch(client, "train", step)
            seen += [item.trajectory.task_id for item in batch[1:] if item.trajectory.index == 0]
        run = await finished(client, "train")
        assert run.state == pb.RUN_STATE_SUCCEEDED
        assert run.progress.episodes_ended == run.progress.episodes_total == 20
        tasks = sorted(selection().task_ids)
        assert sorted(seen[:5]) == sorted(seen[5:]) == tasks


@on_both_databases
async def test_steps_are_admitted_only_as_room_allows(serve: Serve) -> None:
    async with serve(max_concurrent_episodes=6) as (client, server):
        await client.create_run("train", _training(steps=1_000_000))
        await _batch(client, "train", 1)

        def admitted(connection: Connection) -> int:
            return runs.admitted_steps(connection, "train")

        # A step of 6 episodes is admitted while fewer than 6 wait or run: one running, one waiting.
        steps = await server.resources.store.read(admitted)
        ended = (await client.get_run("train")).progress.episodes_ended
        assert steps * 6 <= ended + 12
        await client.cancel_run("train")


@on_both_databases
async def test_a_batch_that_cannot_come_is_refused(serve: Serve) -> None:
    async with serve() as (client, _):
        await client.create_run("train", _training())
        await client.create_run(
            "plain", pb.RunSpec(reference=pb.REFERENCE_AGENT_NOOP, tasks=selection(1))
        )
        with pytest.raises(StepOutOfRange, match="4 steps"):
            await _batch(client, "train", 4)
        with pytest.raises(PreconditionFailed, match="no steps"):
            await _batch(client, "plain", 0)
        with pytest.raises(InvalidInput, match="rank 2"):
            await _batch(client, "train", 0, 2, 2)
        await _batch(client, "train", 0)
        await client.cancel_run("train")
        assert len(await _batch(client, "train", 0)) == 7
        await client.create_run("late", _training(steps=1000))
        await client.cancel_run("late")
        with pytest.raises(Cancelled, match="step 999"):
            await _batch(client, "late", 999)
