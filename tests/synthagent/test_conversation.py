import pytest

from synthagent.conversation import as_text, conversation
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import (
    AgentAction,
    AgentTurn,
    CriterionResult,
    EpisodeEnd,
    EpisodeOutcome,
    Event,
    InvalidReason,
    Verdict,
    Votes,
)
from synthagent.worlds.plans import run_plan
from synthagent.worlds.rubric import judge
from tests.example_task import example_task


def test_a_conversation_shows_calls_facts_and_the_verdict_with_its_evidence() -> None:
    task = example_task()
    image = compile_world(task.world)
    events = run_plan(image, task, task.gold_plans[0])
    shown = as_text(conversation(task, events, judge(task, image, events, "paper")), width=200)
    for part in (
        task.instruction,
        task.restriction.text,
        "day of play: sunday",
        "book_court",
        "[reveals day]",
        "reward 1.000 (paper)",
        *(criterion.description for criterion in task.criteria),
    ):
        assert part in shown


def test_revealed_facts_are_told_with_the_event() -> None:
    task = example_task()
    events = run_plan(compile_world(task.world), task, task.gold_plans[0])
    fact = task.facts[0]
    asked = next(e for e in events if e.body.kind == "user" and fact.fact_id in e.body.revealed)
    shown = as_text(conversation(task, events, None), width=200)
    assert f"{fact.label}: {fact.spoken} (revealed at #{asked.sequence})" in shown
    assert shown.rstrip().endswith("running")
    unasked = as_text(conversation(task, [], None), width=200)
    assert f"{fact.label}: {fact.spoken} (not told)" in unasked


@pytest.mark.parametrize("hostile", ["[/]", "[red]x[/red]", "\x1b[2Jgone", "\x9b2J", "a\u202eb"])
def test_what_an_agent_writes_is_data(hostile: str) -> None:
    task = example_task().model_copy(update={"background": hostile})
    events = [
        Event(sequence=0, body=AgentTurn(text=hostile, action=AgentAction.ANSWER, content=hostile)),
        Event(sequence=1, body=EpisodeEnd(outcome=EpisodeOutcome.ANSWERED)),
    ]
    result = CriterionResult(
        criterion_id=task.criteria[0].criterion_id,
        satisfied=False,
        explanation=hostile,
        votes=Votes(yes=1, no=2, abstain=1),
    )
    verdict = Verdict(reward=0.5, reward_preset="paper", results=(result,))
    shown = as_text(conversation(task, events, verdict, plain=True), width=200)
    assert not set(shown) & {"\x1b", "\x9b", "\u202e"}
    assert "1 yes 2 no 1 abstain" in shown
    if "[" in hostile and hostile.isprintable():
        assert shown.count(hostile) == 3


def test_an_invalid_verdict_is_told_with_its_reason() -> None:
    verdict = Verdict(
        reward=None,
        invalid_reason=InvalidReason.JUDGE_FAULT,
        detail="The judge abstained.",
        reward_preset="paper",
    )
    shown = as_text(conversation(example_task(), [], verdict))
    assert "INVALID (judge_fault): The judge abstained." in shown
