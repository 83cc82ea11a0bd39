"""Which preset judges, and what a judge that cannot judge says."""

import pytest

from services.rubric_judge.verdict import DEFAULT_PRESET, choose_preset, reach_verdict
from synthagent.errors import InvalidInput
from synthagent.worlds.criteria import Criterion, Section, StateCheck
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import EpisodeEnd, EpisodeOutcome, Event, InvalidReason, ToolResult
from synthagent.worlds.plans import run_plan
from synthagent.worlds.spec import Task
from tests.example_task import example_task

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
