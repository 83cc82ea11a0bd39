"""RubricJudge at a real server."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
import pytest
from starlette.responses import JSONResponse

from services.rubric_judge.servicer import register
from synthagent.errors import (
    InvalidInput,
    ModelMalformed,
    ModelUnavailable,
    NotFound,
    PreconditionFailed,
    RequestIdReused,
    Uncertified,
)
from synthagent.server import Running, running
from synthagent.settings import Settings
from synthagent.store import tasks
from synthagent.worlds.certify import certify
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import InvalidReason, UserReply, Votes
from synthagent.worlds.judgement import Judgement
from synthagent.worlds.plans import run_plan
from tests.example_task import example_task
from tests.services.rubric_judge.conftest import judge_role
from tests.services.rubric_judge.episodes import TASK as JUDGED
from tests.services.rubric_judge.judge_server import Asked, Judge, JudgeServer, Said, vote
from tests.services.rubric_judge.judge_server import judge_server as serve

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


UNFAITHFUL = orjson.dumps(
    {
        "rationale": "The user points to a tool.",
        "findings": [
            {
                "sequence": 3,
                "words": "for",
                "breach": "leaked_hint",
                "reason": "It says where to look.",
            }
        ],
        "faithful": False,
    }
).decode()
FAITHFUL = orjson.dumps({"rationale": "All well.", "findings": [], "faithful": True}).decode()


def is_audit(asked: Asked) -> bool:
    return bool(asked.body["response_format"]["json_schema"]["name"] == "UserAudit")


def audited(judge: Judge, audit: Said = FAITHFUL) -> Judge:
    """A judge that also audits the user."""
    return lambda asked: audit if is_audit(asked) else judge(asked)


Open = Callable[..., AbstractAsyncContextManager[tuple[Running, JudgeServer]]]


@pytest.fixture
def with_model(make_settings: Callable[..., Settings]) -> Open:
    """Serves RubricJudge with a judge's model and the judged task stored."""

    @contextlib.asynccontextmanager
    async def opened(
        judge: Judge, *, votes: int = 3, **settings_of: Any
    ) -> AsyncIterator[tuple[Running, JudgeServer]]:
        async with serve(judge) as model:
            role = judge_role(model)
            settings = make_settings(judge=role, user=role, judge_votes=votes, **settings_of)
            async with running(settings, [register]) as server:
                certified = JUDGED.model_copy(update={"certificate": certify(JUDGED)})
                await server.resources.store.write(lambda c: tasks.put(c, certified))
                yield server, model

    return opened


async def test_a_repeat_gives_the_same_verdict_and_no_second_opinion(with_model: Open) -> None:
    judge = audited(lambda asked: vote("NO" if asked.vote == 0 else "YES"))
    async with with_model(judge) as (server, model):
        client = server.resources.client
        first = await client.judge("one", JUDGED.task_id, GOLD)
        assert first.reward == 1.0
        assert {r.criterion_id: r.votes for r in first.results if r.votes} == {
            "polite": Votes(yes=2, no=1),
            "kept_quiet": Votes(yes=2, no=1),
        }
        asked = len(model.asked)
        model.judge = lambda _: vote("NO")
        assert await client.judge("one", JUDGED.task_id, GOLD) == first
        assert len(model.asked) == asked == 1 + 6
        count = server.resources.metrics.registry.get_sample_value
        assert count("synthagent_user_audits_total", {"outcome": "faithful"}) == 1


async def test_a_model_that_comes_back_is_asked_only_what_is_open(with_model: Open) -> None:
    down = True

    def judge(asked: Asked) -> Said:
        bad = down and asked.vote == 2
        return JSONResponse({"error": "overloaded"}, 503) if bad else vote("YES")

    async with with_model(audited(judge), user_audit=True) as (server, model):
        client = server.resources.client
        with pytest.raises(ModelUnavailable):
            await client.judge("one", JUDGED.task_id, GOLD)
        count = server.resources.metrics.registry.get_sample_value
        assert count("synthagent_verdicts_total", {"reason": "judge_fault"}) is None
        down, before = False, len(model.asked)
        assert (await client.judge("one", JUDGED.task_id, GOLD)).reward == 1.0
        assert [asked.vote for asked in model.asked[before:]] == [2, 2]


async def test_the_user_is_audited_after_the_engine_and_before_any_vote(with_model: Open) -> None:
    told = next(event for event in GOLD if isinstance(event.body, UserReply))
    audit = UNFAITHFUL.replace('"sequence":3', f'"sequence":{told.sequence}')
    async with with_model(audited(lambda _: vote("YES"), audit)) as (server, model):
        client = server.resources.client
        verdict = await client.judge("cut", JUDGED.task_id, GOLD[:-1])
        assert verdict.invalid_reason is InvalidReason.MALFORMED_LOG
        assert model.asked == []
        verdict = await client.judge("whole", JUDGED.task_id, GOLD)
        assert (verdict.reward, verdict.invalid_reason) == (None, InvalidReason.USER_INFIDELITY)
        assert "leaked hint" in verdict.detail
        assert [is_audit(asked) for asked in model.asked] == [True]
        count = server.resources.metrics.registry.get_sample_value
        assert count("synthagent_user_audits_total", {"outcome": "unfaithful"}) == 1


async def test_the_audit_can_be_switched_off_and_its_fault_is_the_judges(with_model: Open) -> None:
    no_audit = audited(lambda _: vote("YES"), "I had rather not say.")
    async with with_model(no_audit, user_audit=False) as (server, model):
        assert (await server.resources.client.judge("a", JUDGED.task_id, GOLD)).reward == 1.0
        assert not any(is_audit(asked) for asked in model.asked)
    async with with_model(no_audit) as (server, _):
        verdict = await server.resources.client.judge("b", JUDGED.task_id, GOLD)
        assert (verdict.reward, verdict.invalid_reason) == (None, InvalidReason.JUDGE_FAULT)
        assert "The user could not be audited" in verdict.detail


async def test_a_criterion_is_judged_of_a_stored_or_a_given_task(with_model: Open) -> None:
    async with with_model(lambda _: vote("NO", 1), votes=1) as (server, model):
        client = server.resources.client
        stored = await client.judge_criterion("a", JUDGED.task_id, GOLD[:2], "polite")
        assert stored.judgement is Judgement.NO
        assert stored.result.evidence == (1,)
        assert stored.result.votes == Votes(no=1)
        given = JUDGED.model_copy(update={"task_id": "given"})
        again = await client.judge_criterion("b", given, GOLD[:2], "booked")
        assert again.judgement is Judgement.NO
        assert "The clay court is booked" in model.asked[-1].question
        assert await client.judge_criterion("b", given, GOLD[:2], "booked") == again
        assert len(model.asked) == 2
        with pytest.raises(RequestIdReused):
            await client.judge_criterion("b", given, GOLD, "booked")


async def test_refusals_of_a_criterion(with_model: Open, server: Running) -> None:
    async with with_model(lambda _: "Hm.", votes=1) as (judging, model):
        client = judging.resources.client
        with pytest.raises(NotFound, match="'rude'; it has no_force"):
            await client.judge_criterion("a", JUDGED, GOLD, "rude")
        with pytest.raises(NotFound, match="nobody-knows"):
            await client.judge_criterion("b", "nobody-knows", GOLD, "polite")
        with pytest.raises(InvalidInput, match="at least one"):
            await client.judge_criterion("c", JUDGED, [], "polite")
        with pytest.raises(InvalidInput, match=r"events\[0\] has sequence 1"):
            await client.judge_criterion("d", JUDGED, GOLD[1:], "polite")
        with pytest.raises(InvalidInput, match="1 to 64"):
            await client.judge_criterion("", JUDGED, GOLD, "polite")
        assert model.asked == []
        with pytest.raises(ModelMalformed):
            await client.judge_criterion("e", JUDGED, GOLD, "polite")
    with pytest.raises(PreconditionFailed, match="SYNTHAGENT_JUDGE__BASE_URL"):
        await server.resources.client.judge_criterion("f", JUDGED, GOLD, "polite")
    with pytest.raises(InvalidInput, match="at most 40"):
        await server.resources.client.judge_criterion("g", JUDGED, GOLD * 10, "polite")
