import pytest
from pydantic import JsonValue

from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import AgentTurn, ReplyKind, ToolResult, UserReply
from synthagent.worlds.fidelity import disorder, infidelity
from synthagent.worlds.plans import PlanError, point, render_answer, resolve, run_plan
from tests.example_task import example_task
from tests.synthagent.worlds.changed import Data, changed

TASK = example_task()
IMAGE = compile_world(TASK.world)


def test_a_perfect_agent_asks_before_the_first_use_and_answers() -> None:
    events = run_plan(IMAGE, TASK, TASK.gold_plans[0])
    kinds = [event.body.kind for event in events]
    assert kinds == ["agent", "tool", *["agent", "user", "agent", "tool"] * 2, "agent", "end"]
    replies = [event.body for event in events if isinstance(event.body, UserReply)]
    assert [reply.revealed for reply in replies] == [("member_name",), ("day",)]
    assert all(reply.reply is ReplyKind.REVEALED for reply in replies)
    assert "Tom Achterberg" in replies[0].text
    answer = events[-2].body
    assert isinstance(answer, AgentTurn)
    assert answer.content == "Court C-11 is booked on sunday as B-902."
    assert disorder(events) == infidelity(TASK, events) == ""
    assert events == run_plan(IMAGE, TASK, TASK.gold_plans[0])


def test_without_asking_only_calls_remain() -> None:
    events = run_plan(IMAGE, TASK, TASK.gold_plans[0], ask=False)
    assert not any(isinstance(event.body, UserReply) for event in events)


def test_a_step_that_ends_otherwise_is_an_error() -> None:
    def expect_a_conflict(data: Data) -> None:
        data["gold_plans"][0]["steps"][2]["expected_error_code"] = "court_taken"

    task = changed(expect_a_conflict)
    with pytest.raises(PlanError, match="step book was to end in court_taken"):
        run_plan(IMAGE, task, task.gold_plans[0])


def test_a_step_that_is_expected_to_fail_goes_on() -> None:
    def add_a_conflict(data: Data) -> None:
        steps = data["gold_plans"][0]["steps"]
        naive = {
            "step_id": "naive",
            "tool": "book_court",
            "arguments": {"court_id": "C-12", "member_id": "M-501", "day": "friday"},
            "expected_error_code": "court_taken",
        }
        data["gold_plans"][0]["steps"] = [naive, *steps]

    task = changed(add_a_conflict)
    result = run_plan(IMAGE, task, task.gold_plans[0])[1].body
    assert isinstance(result, ToolResult)
    assert result.error_code == "court_taken"


def test_references_are_replaced() -> None:
    arguments: dict[str, JsonValue] = {
        "a": {"$fact": "f"},
        "b": {"$step": "s", "path": "/rows/1/a~1b"},
        "c": [1],
    }
    assert resolve(arguments, {"f": 3}, {"s": {"rows": [0, {"a/b": "x"}]}}) == {
        "a": 3,
        "b": "x",
        "c": [1],
    }
    references: tuple[dict[str, JsonValue], ...] = (
        {"$fact": "g"},
        {"$step": "t", "path": ""},
        {"$step": "s", "path": "/rows/9"},
    )
    for bad in references:
        with pytest.raises(PlanError):
            resolve({"a": bad}, {"f": 3}, {"s": {"rows": []}})


@pytest.mark.parametrize("pointer", ["a", "/a/b", "/l/-1", "/l/2", "/l/x", "//"])
def test_a_pointer_that_leads_nowhere_is_an_error(pointer: str) -> None:
    with pytest.raises(PlanError):
        point({"a": 1, "l": [0, 1]}, pointer)


def test_an_answer_holds_numbers_as_json_and_texts_as_they_are() -> None:
    plan = TASK.gold_plans[0].model_copy(
        update={"answer": "{step:s:/n} {step:s:/t} {fact:f} {other} {step:s:/b}"}
    )
    results: dict[str, JsonValue] = {"s": {"n": 2.5, "t": "x y", "b": True}}
    assert render_answer(plan, {"f": 3}, results) == "2.5 x y 3 {other} true"
    with pytest.raises(PlanError):
        render_answer(plan, {}, results)
