"""From proposed lines to typed criteria."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from services.task_synthesis.teacher import Attempt, drafting, fuzzy_task, rubric, tool_check
from services.task_synthesis.teacher.products import FuzzyTask, Rubric, ToolSet
from services.task_synthesis.teacher.repair import Broken
from synthagent.worlds.asking.questions import Matcher
from synthagent.worlds.certify import admit
from synthagent.worlds.criteria import (
    AnswerCheck,
    AskedCheck,
    CalledCheck,
    Check,
    Criterion,
    ForbiddenCheck,
    JudgedCheck,
    Section,
)
from synthagent.worlds.rewards import CERTIFIED_PRESETS, REWARD_PRESETS, Fractions, reward
from synthagent.worlds.spec import Split, Task
from tests.services.task_synthesis.teacher import products
from tests.services.task_synthesis.teacher.episodes import attempt

LINE = {"tool": "", "arguments": [], "fact": "", "values": [], "question": ""}


def draft() -> Task:
    tools = tool_check.check(ToolSet.model_validate(products.tool_set()))
    told = fuzzy_task.check(
        FuzzyTask.model_validate(products.fuzzy_task()),
        tool_names=[tool.name for tool in tools.tools],
        workflow=tools.workflow,
    )
    return drafting.draft_task(products.ROUTE, products.PERSONA, Split.TRAIN, tools, told)


def final(attempts: Sequence[Attempt] = (), **sections: Any) -> Task:
    product = Rubric.model_validate({**products.rubric(), **sections})
    return rubric.typed(draft(), product, attempts or [attempt()])


def line(text: str, check: str, **parts: Any) -> dict[str, Any]:
    return {**LINE, "text": text, "check": check, **parts}


def section(task: Task, wanted: Section) -> list[Criterion]:
    return [criterion for criterion in task.criteria if criterion.section is wanted]


def first_goal(**parts: Any) -> Check:
    goals = [line("The first", **parts), *products.rubric()["sub_goals"][1:]]
    return section(final(sub_goals=goals), Section.SUB_GOAL)[0].check


def test_a_good_rubric_is_typed_certified_and_keeps_its_texts() -> None:
    task = final()
    assert not task.task_id.endswith("-draft")
    assert task.world == draft().world
    kinds = [criterion.check.kind for criterion in task.criteria]
    assert kinds == ["judged", "called", "answer", "judged", "asked"]
    assert [c.source_text for c in task.criteria[1:4]] == [
        each["text"] for each in products.rubric()["sub_goals"]
    ]
    called = task.criteria[1].check
    assert isinstance(called, CalledCheck)
    assert called.any_of[0].tool == "RepairLog"
    assert called.any_of[0].arguments[0].equals == "Havørn"
    certified = admit(task)
    assert certified.certificate is not None
    assert certified.certificate.passed


def test_the_identifier_follows_the_content() -> None:
    assert final().task_id == final().task_id
    other = products.rubric()["interaction"][0] | {"text": "Asked what she is called"}
    assert final(interaction=[other]).task_id != final().task_id


def test_every_fact_of_a_draft_can_be_asked_for() -> None:
    task = draft()
    asking = Matcher(task)
    for fact in task.facts:
        for question in fact.questions:
            assert [one.fact_id for one in asking.wanted(question)] == [fact.fact_id], question


@pytest.mark.parametrize(
    "parts",
    [
        {"tool": "Unknown"},
        {"tool": "RepairLog", "arguments": [{"name": "hull", "value": "oak"}]},
        {"tool": "RepairLog", "arguments": [{"name": "boat", "fact": "no_fact"}]},
        {"tool": "RepairLog", "arguments": [{"name": "boat", "value": None}]},
        {"tool": "RepairLog", "arguments": [{"name": "boat", "value": "Terna"}]},  # nobody did
        {"tool": "CraneBooking"},  # nobody did
    ],
)
def test_a_call_that_the_attempts_do_not_bear_out_is_judged(parts: dict[str, Any]) -> None:
    check = first_goal(check="called", question="", **parts)
    assert isinstance(check, JudgedCheck)
    assert "The first" in check.question


def test_a_failed_call_bears_nothing_out() -> None:
    task = final([attempt(ok=False)])
    assert isinstance(section(task, Section.SUB_GOAL)[0].check, JudgedCheck)


def test_an_answer_must_tell_something_that_was_answered() -> None:
    assert isinstance(first_goal(check="answer", values=["k-17"]), AnswerCheck)
    for values in ([], ["Z-99"], [True], [None], ["K"], ["spring"]):  # spring was asked for
        assert isinstance(first_goal(check="answer", values=values), JudgedCheck), values


def test_a_ban_that_every_attempt_breaks_is_judged() -> None:
    ban = line(
        "Never plan a berth",
        "forbidden",
        tool="BerthPlanner",
        arguments=[{"name": "boat", "fact": "boat_name"}],
    )
    kept = section(final(policy=[ban]), Section.POLICY)
    assert isinstance(kept[1].check, ForbiddenCheck)
    breaks = attempt(calls=(("BerthPlanner", {"boat": "Havørn", "week": "12"}),))
    broken = section(final([breaks], policy=[ban]), Section.POLICY)
    assert isinstance(broken[1].check, JudgedCheck)
    assert isinstance(section(final([breaks, attempt()], policy=[ban]), Section.POLICY)[1].check,
                      ForbiddenCheck)  # fmt: skip


def test_the_restriction_is_judged_once_in_our_words_and_zeroes_the_reward() -> None:
    lines = [
        line("CraneBooking was not used too early", "judged", question="Was it used?"),
        line("No berth is promised unseen", "judged", question="Was one promised?"),
        line("The owner is not asked twice", "judged"),
    ]
    task = final(policy=lines)
    policies = section(task, Section.POLICY)
    assert policies[0].criterion_id == task.restriction.criterion_id
    assert len(policies) == 3
    for criterion in policies:
        assert isinstance(criterion.check, JudgedCheck)
        assert criterion.check.question.startswith("Did the agent comply")
    weights = [criterion.weight for criterion in policies]
    violated = Fractions(sum(weights[1:]) / sum(weights), 1.0, 1.0)
    assert {reward(REWARD_PRESETS[name], violated) for name in CERTIFIED_PRESETS} == {0.0}


def test_interaction_is_per_fact_and_all_facts_where_none_is_named() -> None:
    asked = section(final(), Section.INTERACTION)
    assert [c.check for c in asked] == [AskedCheck(fact_id="boat_name")]
    vague = line("Asked whether it hurries", "judged")
    found = section(final(interaction=[vague]), Section.INTERACTION)
    assert [c.check.kind for c in found] == ["asked", "asked", "judged"]
    unknown = line("Asked for the mast", "asked", fact="mast")
    assert section(final(interaction=[unknown]), Section.INTERACTION)[-1].check.kind == "judged"


def test_lines_stand_once_and_three_sub_goals_are_needed() -> None:
    goals = products.rubric()["sub_goals"]
    assert len(section(final(sub_goals=[*goals, goals[2]]), Section.SUB_GOAL)) == 3
    with pytest.raises(Broken, match="at least 3") as broken:
        final(sub_goals=[goals[0], goals[1], goals[1]])
    assert broken.value.step == "rubric"
