"""Worlds that the model writes as data: assembly, every gate, and the repair loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from services.task_synthesis.teacher import Rejected, ToolKind, sql_world
from services.task_synthesis.teacher.repair import Broken
from services.task_synthesis.teacher.sql_product import SqlWorld
from synthagent.worlds.certify import certify
from synthagent.worlds.criteria import ForbiddenCheck, Section
from synthagent.worlds.spec import GateStatus, Split, SqlProgram, Task
from tests.services.task_synthesis.teacher import sql_product
from tests.services.task_synthesis.teacher.conftest import OpenClassroom
from tests.services.task_synthesis.teacher.products import PERSONA, ROUTE, Json

Change = Callable[[Json], Any]


def assembled(change: Change = lambda _: None) -> Task:
    product = sql_product.sql_world()
    change(product)
    return sql_world.assembled(ROUTE, PERSONA, Split.TRAIN, SqlWorld.model_validate(product))


def test_names_become_identifiers_and_references_follow() -> None:
    task = assembled()
    assert [fact.fact_id for fact in task.facts] == ["borrower", "loan_day"]
    steps = task.gold_plans[0].steps
    assert [step.step_id for step in steps] == ["boats", "who", "lend"]
    assert steps[1].arguments == {"full_name": {"$fact": "borrower"}}
    assert steps[2].arguments["member_id"] == {"$step": "who", "path": "/member_id"}
    assert "{fact:loan_day}" in task.gold_plans[0].answer
    assert task.facts[0].label == "borrower's full name"


def test_what_the_teacher_adds_itself() -> None:
    task = assembled()
    policy = task.criteria[0]
    assert policy.criterion_id == task.restriction.criterion_id
    assert isinstance(policy.check, ForbiddenCheck)
    asked = [c.check for c in task.criteria if c.section is Section.INTERACTION]
    assert [check.kind for check in asked] == ["asked", "asked"]
    assert task.restriction.text == (
        "Tool waive_and_lend must NOT be used to get around a member's unpaid debt."
    )
    assert all(isinstance(tool.behaviour, SqlProgram) for tool in task.world.tools)
    assert all(c.source_text for c in task.criteria)


def test_fields_that_a_statement_does_not_have_are_left_out() -> None:
    def untidy(product: Json) -> None:
        product["tools"][2]["statements"][-2].update(
            error_code="Not Lent!", shape="row", key="x", error_message="no"
        )
        product["tools"][0]["statements"][0].update(error_code="none", shape="")

    task = assembled(untidy)
    assert certify(task).passed


BROKEN: list[tuple[str, Change, str, str]] = [
    (
        "a column that is not there",
        lambda p: p["tools"][1]["statements"][0].update(sql="SELECT idd AS member_id FROM member"),
        "compiles",
        "tool find_paddler, statement 0: no such column: idd",
    ),
    (
        "a row of another length",
        lambda p: p["tables"][0]["rows"].append(["K-9"]),
        "compiles",
        "world.tables.0: table kayak, row 4: 1 values for 3 columns",
    ),
    (
        "a step that does not exist",
        lambda p: p["gold_plans"][0]["steps"][2]["arguments"].update(
            member_id={"$step": "ghost", "path": "/member_id"}
        ),
        "compiles",
        "ghost is no earlier step",
    ),
    (
        "a fact that does not exist",
        lambda p: p["gold_plans"][0]["steps"][2]["arguments"].update(day={"$fact": "hour"}),
        "compiles",
        "no fact hour",
    ),
    (
        "a plan that fails",
        lambda p: p["gold_plans"][0]["steps"][0]["arguments"].update(model="canoe"),
        "gold",
        "must be one of",
    ),
    (
        "a sub-goal that always holds",
        lambda p: p["sub_goals"].append(
            {"text": "There are kayaks.", "check": "state", "sql": "SELECT 1"}
        ),
        "no_op",
        "is satisfied without doing anything",
    ),
    (
        "a step that nothing needs",
        lambda p: p["sub_goals"].pop(0),
        "necessity",
        "needs no step boats",
    ),
    (
        "an argument that may be anything",
        lambda p: p["sub_goals"][2].update(
            sql="SELECT EXISTS (SELECT 1 FROM loan WHERE member_id = 'P-72')"
        ),
        "wrong_entity",
        "may be",
    ),
    (
        "a probe that is not possible",
        lambda p: p["probe"]["steps"][0]["arguments"].update(kayak_id="K-99"),
        "restriction",
        "the probe is not possible",
    ),
    (
        "a probe that is not detected",
        lambda p: p.update(forbidden=[{"tool": "waive_and_lend", "arguments": {"day": "sunday"}}]),
        "restriction",
        "does not detect the probe",
    ),
    (
        "a fact that a tool shows",
        lambda p: p["tools"][1].update(description="Finds a member, such as Emil Sand."),
        "information_gap",
        "stands in a text",
    ),
    (
        "an instruction that tells a fact",
        lambda p: p.update(instruction="Please lend a touring kayak to Emil Sand."),
        "leak_check",
        "private fact borrower",
    ),
    (
        "a restriction without a tool",
        lambda p: p["restriction"].update(tool="steal_kayak"),
        "tool_check",
        "none of the tools",
    ),
    (
        "two steps of one name",
        lambda p: p["gold_plans"][0]["steps"][1].update(name="boats"),
        "sql_world",
        "two steps have the name",
    ),
]


def outcome(task_or_error: Task | Broken) -> tuple[str, str]:
    if isinstance(task_or_error, Broken):
        return task_or_error.step, task_or_error.reason
    last = certify(task_or_error).gates[-1]
    return (last.gate.value, last.detail) if last.status is GateStatus.FAILED else ("", "")


@pytest.mark.parametrize(
    ("change", "by", "reason"), [each[1:] for each in BROKEN], ids=[each[0] for each in BROKEN]
)
def test_what_is_broken_is_found_with_its_place(change: Change, by: str, reason: str) -> None:
    try:
        found = outcome(assembled(change))
    except Broken as broken:
        found = outcome(broken)
    assert found[0] == by, found
    assert reason in found[1]


@pytest.mark.parametrize("number", [0, 4, 6])
async def test_the_reason_goes_back_and_the_mended_world_is_admitted(
    classroom: OpenClassroom, number: int
) -> None:
    _, change, by, reason = BROKEN[number]
    bad = sql_product.sql_world()
    change(bad)
    async with classroom({"sql_world": [bad, bad, sql_product.sql_world()]}) as room:
        draft = await room.teacher.draft(
            ROUTE, PERSONA, Split.TRAIN, key="r/0", tool_kind=ToolKind.SQL, repairs=2
        )
        prompts = room.prompts("sql_world")
    assert len(prompts) == 3
    for repair in prompts[1:]:
        assert f"found by {by}" in repair
        assert reason in repair
    assert draft.task.certificate is not None
    assert draft.task.certificate.passed
    repairs = draft.product["repairs"]
    assert isinstance(repairs, list)
    assert [each["step"] for each in repairs if isinstance(each, dict)] == [by, by]


async def test_a_world_that_stays_broken_is_rejected_by_its_gate(classroom: OpenClassroom) -> None:
    bad = sql_product.sql_world()
    BROKEN[5][1](bad)
    async with classroom({"sql_world": [bad]}) as room:
        with pytest.raises(Rejected) as rejected:
            await room.teacher.draft(
                ROUTE, PERSONA, Split.TRAIN, key="r/0", tool_kind=ToolKind.SQL, repairs=1
            )
    assert rejected.value.rejected_by == "no_op"
    assert rejected.value.usage.calls == 2
    assert "sql_world" in rejected.value.product
