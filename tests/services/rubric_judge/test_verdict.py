"""Which preset judges, what is asked of a model and when, what a judge that cannot judge says."""

import pytest

from services.rubric_judge.auditor import UserAuditor
from services.rubric_judge.verdict import (
    DEFAULT_PRESET,
    Advisers,
    choose_preset,
    reach_verdict,
)
from synthagent.errors import InvalidInput, ModelUnavailable
from synthagent.worlds.criteria import Criterion, Section, StateCheck
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import (
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    InvalidReason,
    ToolResult,
    UserReply,
    Verdict,
    Votes,
)
from synthagent.worlds.plans import run_plan
from synthagent.worlds.protocol import call_turn
from synthagent.worlds.spec import Task
from tests.example_task import example_task
from tests.services.rubric_judge.conftest import Bench, MakeBench
from tests.services.rubric_judge.episodes import TASK as JUDGED
from tests.services.rubric_judge.episodes import log, replaced
from tests.services.rubric_judge.judge_server import Asked, Said, completion, vote

TASK = example_task()
IMAGE = compile_world(TASK.world)
GOLD = run_plan(IMAGE, TASK, TASK.gold_plans[0])


def test_the_paper_is_the_default() -> None:
    assert choose_preset("") == DEFAULT_PRESET == "paper"
    assert choose_preset("paper_code") == "paper_code"


def test_an_unknown_preset_names_the_closest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'paper_code'") as caught:
        choose_preset("papercode")
    assert caught.value.field == "reward_preset"


async def test_gold_earns_everything_with_evidence() -> None:
    verdict = await reach_verdict(TASK, IMAGE, GOLD, "paper")
    assert verdict.reward == 1.0
    assert [result.criterion_id for result in verdict.results] == [
        criterion.criterion_id for criterion in TASK.criteria
    ]
    asked = next(r for r in verdict.results if r.criterion_id == "asked_day")
    assert asked.evidence


async def test_a_long_log_is_judged_alike() -> None:
    """Longer logs take the way through a thread."""
    listing = GOLD[:2]  # a call that changes nothing, and its result
    assert isinstance(listing[1].body, ToolResult)
    log = [*listing * 32, *GOLD]
    numbered = [Event(sequence=n, body=event.body) for n, event in enumerate(log)]
    assert (await reach_verdict(TASK, IMAGE, numbered, "paper")).reward == 1.0


async def test_a_rubric_that_does_not_compile_is_invalid_and_no_number() -> None:
    broken = Criterion(
        criterion_id="broken",
        section=Section.SUB_GOAL,
        description="Cannot be evaluated.",
        check=StateCheck(sql="SELECT nothing FROM nowhere"),
    )
    task: Task = TASK.model_copy(update={"criteria": (*TASK.criteria, broken)})
    verdict = await reach_verdict(task, IMAGE, GOLD, "paper")
    assert verdict.reward is None
    assert verdict.invalid_reason is InvalidReason.JUDGE_FAULT
    assert "nowhere" in verdict.detail


async def test_a_fault_is_handed_on_with_its_reason() -> None:
    end = EpisodeEnd(
        outcome=EpisodeOutcome.FAULT, invalid_reason=InvalidReason.TOOL_FAULT, detail="gone"
    )
    verdict = await reach_verdict(TASK, IMAGE, [Event(sequence=0, body=end)], "paper")
    assert (verdict.reward, verdict.invalid_reason, verdict.detail) == (
        None,
        InvalidReason.TOOL_FAULT,
        "gone",
    )


async def judged(bench: Bench, events: list[Event], task: Task = JUDGED) -> Verdict:
    return await reach_verdict(
        task, IMAGE, events, "paper", advisers=Advisers(judge=bench.judge), key="episode"
    )


async def test_a_model_decides_what_the_engine_cannot(make_bench: MakeBench) -> None:
    """Of five sub-goals the model denies one; the rule that it was asked about was kept."""

    def judge(asked: Asked) -> Said:
        polite = "polite" in asked.question
        return vote("NO" if polite else "YES", 1, rationale="Never said please.")

    async with make_bench(judge) as bench:
        verdict = await judged(bench, GOLD)
        assert verdict.reward == pytest.approx((4 / 5 + 1) / 2)
        assert [r.criterion_id for r in verdict.results] == [
            c.criterion_id for c in JUDGED.criteria
        ]
        by_id = {result.criterion_id: result for result in verdict.results}
        assert by_id["polite"].votes == Votes(no=3)
        assert by_id["polite"].evidence == (1,)
        assert by_id["polite"].explanation == "Never said please."
        assert by_id["booked"].votes is None
        assert len(bench.server.asked) == 2 * 3


async def test_a_broken_rule_that_a_model_finds_earns_nothing(make_bench: MakeBench) -> None:
    async with make_bench(
        lambda asked: vote("NO" if "private" in asked.question else "YES")
    ) as bench:
        verdict = await judged(bench, GOLD)
        assert (verdict.reward, verdict.policy_fraction) == (0.0, 0.5)


def broken_logs() -> list[tuple[list[Event], InvalidReason]]:
    forged = ToolResult(ok=True, result='{"courts":[]}', state_hash="0" * 32)
    told = next(event for event in GOLD if isinstance(event.body, UserReply))
    assert isinstance(told.body, UserReply)
    leaky = told.body.model_copy(update={"text": "Just use find_courts."})
    fault = EpisodeEnd(
        outcome=EpisodeOutcome.FAULT, invalid_reason=InvalidReason.TOOL_FAULT, detail="gone"
    )
    return [
        (GOLD[:-1], InvalidReason.MALFORMED_LOG),
        (list(replaced(GOLD, 1, forged)), InvalidReason.REPLAY_MISMATCH),
        (list(replaced(GOLD, told.sequence, leaky)), InvalidReason.USER_INFIDELITY),
        (list(log(fault)), InvalidReason.TOOL_FAULT),
    ]


async def test_an_invalid_episode_costs_no_call_of_a_model(make_bench: MakeBench) -> None:
    async with make_bench(lambda _: vote("YES")) as bench:
        auditor = UserAuditor(bench.models.need("judge"), bench.metrics)
        for events, reason in broken_logs():
            verdict = await reach_verdict(
                JUDGED,
                IMAGE,
                events,
                "paper",
                advisers=Advisers(judge=bench.judge, auditor=auditor),
            )
            assert (verdict.reward, verdict.invalid_reason) == (None, reason)
        assert bench.server.asked == []


async def test_a_rubric_without_judged_criteria_asks_nobody(make_bench: MakeBench) -> None:
    async with make_bench(lambda _: vote("NO")) as bench:
        assert (await judged(bench, GOLD, TASK)).reward == 1.0
        assert bench.server.asked == []


async def test_without_a_model_such_a_rubric_cannot_be_judged() -> None:
    verdict = await reach_verdict(JUDGED, IMAGE, GOLD, "paper")
    assert (verdict.reward, verdict.invalid_reason) == (None, InvalidReason.JUDGE_FAULT)
    assert "polite" in verdict.detail
    assert "SYNTHAGENT_JUDGE__BASE_URL" in verdict.detail


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (("YES", "NO", "ABSTAIN"), "1 YES, 1 NO, 1 ABSTAIN"),
        (("ABSTAIN", "ABSTAIN", "YES"), "1 YES, 0 NO, 2 ABSTAIN"),
    ],
)
async def test_an_undecided_criterion_is_no_number(
    make_bench: MakeBench, answers: tuple[str, ...], why: str
) -> None:
    def judge(asked: Asked) -> Said:
        return vote(answers[asked.vote] if "polite" in asked.question else "YES")

    async with make_bench(judge) as bench:
        verdict = await judged(bench, GOLD)
        assert (verdict.reward, verdict.invalid_reason) == (None, InvalidReason.JUDGE_FAULT)
        assert "polite" in verdict.detail
        assert "kept_quiet" not in verdict.detail
        assert why in verdict.detail
        assert verdict.results == ()


async def test_a_useless_model_is_no_number(make_bench: MakeBench) -> None:
    async with make_bench(lambda _: completion(None, refusal="No comment.")) as bench:
        verdict = await judged(bench, GOLD)
        assert (verdict.reward, verdict.invalid_reason) == (None, InvalidReason.JUDGE_FAULT)
        assert "Criterion polite could not be judged" in verdict.detail
        assert "Criterion kept_quiet could not be judged" in verdict.detail


async def test_a_model_that_cannot_be_reached_is_worth_a_repeat(make_bench: MakeBench) -> None:
    async with make_bench(lambda _: vote("YES"), base_url="http://127.0.0.1:9/v1") as bench:
        with pytest.raises(ModelUnavailable):
            await judged(bench, GOLD)


async def test_what_the_engine_found_cannot_be_voted_away(make_bench: MakeBench) -> None:
    """The forbidden act stays forbidden, however much a model likes the episode."""
    with IMAGE.open() as session:
        turn = call_turn(
            "force_booking", {"court_id": "C-11", "member_id": "M-501", "day": "sunday"}
        )
        result = session.call(turn.tool, turn.arguments)
    end = EpisodeEnd(outcome=EpisodeOutcome.TURN_LIMIT)
    async with make_bench(lambda _: vote("YES")) as bench:
        verdict = await judged(bench, list(log(turn, result, end)))
        assert verdict.reward == 0.0
        by_id = {result.criterion_id: result.satisfied for result in verdict.results}
        assert (by_id["no_force"], by_id["polite"], by_id["kept_quiet"]) == (False, True, True)
