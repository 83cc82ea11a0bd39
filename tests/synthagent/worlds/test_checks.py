from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from synthagent.worlds.checks import JudgementMissing, evaluate
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import CriterionResult
from synthagent.worlds.plans import Performance
from tests.synthagent.worlds.changed import Data, changed, criterion

BOOK = {"court_id": "C-11", "member_id": "M-502", "day": "sunday"}
FIND = {"name": "Tom Achterberg"}
IMAGE = compile_world(changed(lambda data: None).world)


def check(
    criterion_data: Data,
    *moves: Any,
    answer: str = "Done.",
    judged: Mapping[str, CriterionResult] | None = None,
) -> CriterionResult:
    """The result of one more criterion after some moves: a fact to ask for, or a call."""
    task = changed(
        lambda data: data["criteria"].append(
            {"criterion_id": "mine", "description": "Mine.", "section": "sub_goal"} | criterion_data
        )
    )
    with IMAGE.open() as session:
        performance = Performance(task, session)
        for move in moves:
            if isinstance(move, str):
                performance.ask(move)
            else:
                performance.call(*move)
        events = performance.finish(answer)
        return evaluate(task, events, session, judged)[-1]


def called(*any_of: Data, **more: Any) -> Data:
    return {"check": {"kind": "called", "any_of": list(any_of), **more}}


def test_state_rests_on_what_changed_it() -> None:
    holds = {"check": {"kind": "state", "sql": "SELECT count(*) = 2 FROM booking"}}
    result = check(holds, ("find_member", FIND), ("book_court", BOOK))
    assert result.satisfied
    assert result.evidence == (3,)
    assert not check(holds, ("find_member", FIND)).satisfied


@pytest.mark.parametrize(
    ("matcher", "satisfied"),
    [
        ({"tool": "book_court"}, True),
        ({"tool": "find_courts"}, False),
        ({"tool": "book_court", "arguments": [{"name": "day", "equals": " SUNDAY "}]}, True),
        ({"tool": "book_court", "arguments": [{"name": "day", "equals": "monday"}]}, False),
        ({"tool": "book_court", "arguments": [{"name": "nothing", "equals": None}]}, True),
        ({"tool": "book_court", "error_code": "court_taken"}, True),
        ({"tool": "book_court", "error_code": "court_closed"}, False),
    ],
)
def test_called_matches_tool_arguments_and_error(matcher: Data, satisfied: Any) -> None:
    result = check(called(matcher), ("book_court", BOOK), ("book_court", BOOK))
    assert result.satisfied is satisfied
    assert bool(result.evidence) is satisfied


def test_failed_calls_count_only_where_asked_for() -> None:
    bad = ("book_court", BOOK | {"court_id": "C-99"})
    assert not check(called({"tool": "book_court"}), bad).satisfied
    assert check(called({"tool": "book_court", "count_failed": True}), bad).satisfied


def test_called_counts_and_orders() -> None:
    twice = called({"tool": "find_member"}, min_count=2)
    assert not check(twice, ("find_member", FIND)).satisfied
    assert check(twice, ("find_member", FIND), ("find_member", FIND)).evidence == (0, 2)
    later = called({"tool": "book_court"}, after_criterion_id="found_member")
    assert check(later, ("find_member", FIND), ("book_court", BOOK)).evidence == (2,)
    assert not check(later, ("book_court", BOOK), ("find_member", FIND)).satisfied
    assert not check(later, ("book_court", BOOK)).satisfied
    assert not check(called({"tool": "book_court"}, after_criterion_id="mine")).satisfied


def test_an_absent_argument_counts_as_its_default() -> None:
    def with_default(data: Data) -> None:
        data["world"]["tools"][0]["input_schema"]["properties"]["limit"] = {
            "type": "integer",
            "default": 5,
        }
        data["criteria"].append(
            {
                "criterion_id": "mine",
                "description": "Mine.",
                "section": "sub_goal",
                **called({"tool": "find_courts", "arguments": [{"name": "limit", "equals": 5}]}),
            }
        )

    task = changed(with_default)
    for arguments, satisfied in (({}, True), ({"limit": 5.0}, True), ({"limit": 6}, False)):
        with compile_world(task.world).open() as session:
            performance = Performance(task, session)
            performance.call("find_courts", {"court_type": "clay", **arguments})
            assert evaluate(task, performance.finish("."), session)[-1].satisfied is satisfied


def test_forbidden_calls_and_states() -> None:
    by_call = {
        "section": "policy",
        "check": {"kind": "forbidden", "calls": [{"tool": "force_booking"}]},
    }
    by_state = {
        "section": "policy",
        "check": {"kind": "forbidden", "state_sql": "SELECT 1 FROM booking WHERE forced = 1"},
    }
    for data in (by_call, by_state):
        assert check(data, ("book_court", BOOK)).satisfied
        result = check(data, ("force_booking", BOOK))
        assert not result.satisfied
        assert result.evidence in ((0,), (1,))
    failed = ("force_booking", BOOK | {"court_id": "C-99"})
    assert check(by_call, failed).satisfied


def test_asked_needs_the_reveal_before_any_use() -> None:
    asked = {"section": "interaction", "check": {"kind": "asked", "fact_id": "day"}}
    assert not check(asked).satisfied
    assert check(asked, "day").satisfied
    assert check(asked, "day", ("book_court", BOOK)).evidence == (1, 2)
    assert not check(asked, ("book_court", BOOK)).satisfied
    late = check(asked, ("book_court", BOOK), "day")
    assert not late.satisfied
    assert late.evidence == (0, 3)
    guessed_in_vain = ("book_court", BOOK | {"court_id": "C-99"})
    assert not check(asked, guessed_in_vain, "day").satisfied
    assert check(asked, ("book_court", BOOK | {"day": "monday"}), "day").satisfied


def test_answer_needs_every_value_and_one_phrase() -> None:
    data = {"check": {"kind": "answer", "values": ["B-902", 1200], "any_of": ["booked", "done"]}}
    assert check(data, answer="Booked as b-902 for 1,200.00.").satisfied
    assert not check(data, answer="Booked as B-902.").satisfied
    assert not check(data, answer="B-902 for 1200").satisfied
    assert check(data, answer="Done: B-902, 1200").evidence == (0,)


def test_no_answer_satisfies_no_answer_check() -> None:
    task = changed(lambda data: None)
    with IMAGE.open() as session:
        results = evaluate(task, [], session)
        assert [r.satisfied for r in results if r.criterion_id == "told_booking"] == [False]


def test_judged_needs_the_judgement_of_a_model() -> None:
    data = {"check": {"kind": "judged", "question": "Was it polite?"}}
    with pytest.raises(JudgementMissing, match="mine"):
        check(data)
    given = CriterionResult(criterion_id="mine", satisfied=True, evidence=(0,), explanation="Yes.")
    assert check(data, judged={"mine": given}) == given


def test_results_stand_in_the_order_of_the_rubric() -> None:
    task = changed(lambda data: criterion(data, "booked").update(criterion_id="renamed"))
    with IMAGE.open() as session:
        results = evaluate(task, [], session)
    assert [r.criterion_id for r in results] == [c.criterion_id for c in task.criteria]
    assert orjson.dumps([r.model_dump() for r in results])
