"""What the visible sentence and the background must not hold."""

from __future__ import annotations

import pytest

from services.task_synthesis.teacher import leak_check
from services.task_synthesis.teacher.repair import Broken
from synthagent.worlds.spec import Fact

WORKFLOW = (
    "Compare the opening hours of nearby swimming pools",
    "Check which lanes are free",
    "Reserve a lane for the group",
    "Confirm the reservation with the coach",
    "Report the outcome",
)
TOOLS = ("LaneReservation", "pool_finder", "Calendar", "mail")
FACT = Fact(
    fact_id="group_size",
    label="size of the group",
    value=14,
    ask_terms=("group",),
    replies=("We are {value}.",),
    questions=("How many are you?",),
)
GOOD = "Our club would love to train somewhere warm this winter."


def found(instruction: str = GOOD, background: str = "They swim often.") -> str:
    return "; ".join(
        leak_check.leaks(
            instruction, background, facts=(FACT,), tool_names=TOOLS, workflow=WORKFLOW
        )
    )


def test_a_vague_sentence_gives_nothing_away() -> None:
    assert found() == ""
    assert found("Please enter it into my calendar and send a mail to 140 people.") == ""


@pytest.mark.parametrize(
    ("instruction", "leak"),
    [
        ("All 14 of us want to train this winter.", "private fact group_size (14)"),
        ("All 14.0 of us want to train this winter.", "private fact group_size (14)"),
        ("Use lane reservation for our club.", "names the tool LaneReservation"),
        ("Ask LANERESERVATION for our club.", "names the tool LaneReservation"),
        ("Start the pool finder for our club.", "names the tool pool_finder"),
        ("Let Calendar decide for our club.", "names the tool Calendar"),
        (
            "Please compare the opening hours of nearby swimming pools.",
            "gives the sub-goal 'Compare the opening hours",
        ),
        (
            "Compare opening hours of swimming pools nearby, check free lanes, reserve a lane.",
            "tells 3 sub-goals",
        ),
    ],
)
def test_what_gives_it_away_is_named(instruction: str, leak: str) -> None:
    assert leak in found(instruction)


def test_the_background_may_hold_facts_but_no_tool_and_no_workflow() -> None:
    assert found(background="We are 14 and the coach wants to confirm the reservation.") == ""
    assert "the background names the tool pool_finder" in found(background="pool_finder knows.")
    recital = "Compare the opening hours of nearby swimming pools, check which lanes are free."
    assert "recites the workflow" in found(background=recital)


def test_a_workflow_with_a_fact_is_no_workflow() -> None:
    told = leak_check.leaks(
        GOOD, "", facts=(FACT,), tool_names=(), workflow=("Reserve for 14 people",)
    )
    assert "the workflow holds the private fact" in next(told)


def test_the_check_reports_all_at_once() -> None:
    with pytest.raises(Broken, match=r"group_size.*pool_finder") as broken:
        leak_check.check(
            "Let pool_finder look for 14 lanes.",
            "",
            facts=(FACT,),
            tool_names=TOOLS,
            workflow=WORKFLOW,
        )
    assert broken.value.step == "leak_check"
