import pytest
from sqlalchemy import text

from services.rollout import scheduler
from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.api.v1 import trajectory_pb2
from tests.services.rollout.conftest import Serve, finished, selection


async def test_an_episode_of_a_damaged_task_ends_invalid(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "RETRY_SECONDS", 0.0)
    async with serve() as (client, server):
        damage = text("UPDATE task SET body = replace(body, 'clay', 'mud') WHERE ordinal = 1")
        await server.resources.store.write(lambda c: c.execute(damage))
        await client.create_run(
            "damaged", pb.RunSpec(reference=pb.REFERENCE_AGENT_GOLD, tasks=selection())
        )
        run = await finished(client, "damaged")
        assert run.state == pb.RUN_STATE_SUCCEEDED
        assert (run.progress.episodes_ended, run.progress.episodes_invalid) == (5, 1)
        assert run.progress.mean_reward == 1.0
        trajectory = await client.get_trajectory("damaged.0.0")
        assert trajectory.outcome == trajectory_pb2.EPISODE_OUTCOME_FAULT
        assert "Uncertified" in trajectory.verdict.invalid.detail


async def test_outcomes_and_rewards_are_counted(serve: Serve) -> None:
    async with serve() as (client, server):
        await client.create_run(
            "n", pb.RunSpec(reference=pb.REFERENCE_AGENT_NOOP, tasks=selection())
        )
        await finished(client, "n")
        value = server.resources.metrics.registry.get_sample_value
        labels = {"agent": "noop", "outcome": "answered"}
        assert value("synthagent_episodes_total", labels) == 5.0
        assert value("synthagent_episode_reward_count", {"agent": "noop"}) == 5.0
        assert value("synthagent_episode_reward_sum", {"agent": "noop"}) == 0.0
        assert value("synthagent_episodes_running") == 0.0
