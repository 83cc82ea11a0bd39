"""RubricJudge at a real server."""

from collections.abc import AsyncIterator, Callable

import pytest

from services.rubric_judge.servicer import register
from synthagent.errors import InvalidInput, NotFound, RequestIdReused, Uncertified
from synthagent.server import Running, running
from synthagent.settings import Settings
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import InvalidReason
from synthagent.worlds.plans import run_plan
from tests.example_task import example_task

TASK = example_task()
GOLD = run_plan(compile_world(TASK.world), TASK, TASK.gold_plans[0])


@pytest.fixture
async def server(make_settings: Callable[..., Settings]) -> AsyncIterator[Running]:
    async with running(make_settings(max_events=40), [register]) as opened:
        yield opened


async def test_verdicts_are_given_once_and_counted(server: Running) -> None:
    client = server.resources.client
    verdict = await client.judge("one", TASK.task_id, GOLD)
    assert verdict.reward == 1.0
    assert verdict.reward_preset == "paper"
    assert len(verdict.results) == len(TASK.criteria)
    assert await client.judge("one", TASK.task_id, GOLD) == verdict
    with pytest.raises(RequestIdReused):
        await client.judge("one", TASK.task_id, GOLD, "paper_code")
    count = server.resources.metrics.registry.get_sample_value
    assert count("synthagent_verdicts_total", {"reason": "valid"}) == 1


async def test_an_incomplete_log_is_invalid(server: Running) -> None:
    verdict = await server.resources.client.judge("cut", TASK.task_id, GOLD[:-1])
    assert verdict.reward is None
    assert verdict.invalid_reason is InvalidReason.MALFORMED_LOG
    count = server.resources.metrics.registry.get_sample_value
    assert count("synthagent_verdicts_total", {"reason": "malformed_log"}) == 1


async def test_refusals(server: Running) -> None:
    client = server.resources.client
    with pytest.raises(NotFound):
        await client.judge("a", "nobody-knows", GOLD)
    with pytest.raises(Uncertified):
        await client.judge("b", "uncertified", GOLD)
    with pytest.raises(InvalidInput, match="no reward preset 'best'") as caught:
        await client.judge("c", TASK.task_id, GOLD, "best")
    assert caught.value.field == "reward_preset"
    with pytest.raises(InvalidInput, match="at most 40"):
        await client.judge("d", TASK.task_id, GOLD * 10)
