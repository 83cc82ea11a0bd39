from typing import Any

import pytest

from synthagent.worlds import gates
from synthagent.worlds.certificate import verify
from synthagent.worlds.certify import Rejected, admit, certify
from synthagent.worlds.content import task_digest
from synthagent.worlds.engine import ENGINE_VERSION
from synthagent.worlds.novelty import NoveltyIndex
from synthagent.worlds.spec import Gate, GateStatus
from tests.example_task import example_task
from tests.synthagent.worlds.changed import Change, Data, changed, criterion, rejection, tool


def step(data: Data, number: int) -> Data:
    found: Data = data["gold_plans"][0]["steps"][number]
    return found


def test_the_example_passes_every_gate() -> None:
    task = example_task()
    certified = admit(task, NoveltyIndex())
    certificate = certified.certificate
    assert certificate is not None
    assert [result.status for result in certificate.gates] == [GateStatus.PASSED] * 9
    assert certificate.engine_version == ENGINE_VERSION
    assert certificate.task_digest == task_digest(task) == task_digest(certified)
    assert certify(task) == certify(certified)
    verify(certified)


def bad_sql(data: Data) -> None:
    tool(data, "find_courts")["behaviour"]["statements"][0]["sql"] = "SELECT colour FROM court"


def bad_schema(data: Data) -> None:
    tool(data, "find_courts")["input_schema"]["properties"]["court_type"] = {"type": "texts"}


def outside_reference(data: Data) -> None:
    tool(data, "find_courts")["input_schema"]["properties"]["x"] = {"$ref": "https://e.org/s.json"}


def bad_template(data: Data) -> None:
    tool(data, "find_member")["behaviour"]["statements"][0]["error_message"] = "No {court_id}."


def bad_seed(data: Data) -> None:
    data["world"]["tables"][0]["rows"].append(["C-11", "clay", 1])


def bad_predicate(data: Data) -> None:
    criterion(data, "booked")["check"]["sql"] = "DELETE FROM booking"


def text_predicate(data: Data) -> None:
    criterion(data, "booked")["check"]["sql"] = "SELECT 'false'"


def bad_matcher(data: Data) -> None:
    criterion(data, "found_courts")["check"]["any_of"][0]["tool"] = "find_court"


def bad_matched_argument(data: Data) -> None:
    criterion(data, "found_courts")["check"]["any_of"][0]["arguments"][0]["name"] = "kind"


def circular_order(data: Data) -> None:
    criterion(data, "found_courts")["check"]["after_criterion_id"] = "found_member"
    criterion(data, "found_member")["check"]["after_criterion_id"] = "found_courts"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (bad_sql, "tool find_courts, statement 0: no such column: colour"),
        (bad_schema, "tool find_courts, schema"),
        (outside_reference, "only references inside the schema"),
        (bad_template, "{court_id} is no parameter"),
        (bad_seed, "table court, row 4"),
        (bad_predicate, "not authorized"),
        (text_predicate, "gives text"),
        (bad_matcher, "there is no tool find_court"),
        (bad_matched_argument, "find_courts has no argument kind"),
        (circular_order, "ordered after itself"),
    ],
)
def test_compiles(change: Change, says: str) -> None:
    gate, reason = rejection(change)
    assert gate is Gate.COMPILES
    assert says in reason


def missed_criterion(data: Data) -> None:
    criterion(data, "told_booking")["check"]["values"] = ["B-903"]


def failing_step(data: Data) -> None:
    step(data, 2)["arguments"]["court_id"] = "C-14"


def dangling_pointer(data: Data) -> None:
    step(data, 2)["arguments"]["court_id"]["path"] = "/courts/5/court_id"


def unexpected_success(data: Data) -> None:
    step(data, 2)["expected_error_code"] = "court_taken"


def no_sub_goal(data: Data) -> None:
    data["criteria"] = [c for c in data["criteria"] if c["section"] == "policy"]
    data["criteria"].append(
        criterion(example_task().model_dump(mode="json"), "found_courts") | {"section": "policy"}
    )
    data["criteria"].append(
        {
            "criterion_id": "asked_day",
            "section": "interaction",
            "description": "Asked.",
            "weight": 1e-30,
            "check": {"kind": "answer", "values": ["never said"]},
        }
    )


def indiscreet_reply(data: Data) -> None:
    data["facts"][0]["replies"] = ["It is for {value}, on sunday."]


def answer_of_an_unknown_step(data: Data) -> None:
    data["gold_plans"][0]["answer"] = "Booked as {step:bok:/booking_id}."


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (missed_criterion, "misses told_booking"),
        (failing_step, "step book was to end in success"),
        (dangling_pointer, "there is nothing at '/courts/5/court_id'"),
        (unexpected_success, "step book was to end in court_taken"),
        (no_sub_goal, "misses asked_day"),
        (indiscreet_reply, "states day without reporting it"),
        (answer_of_an_unknown_step, "there is no result of step bok"),
    ],
)
def test_gold(change: Change, says: str) -> None:
    gate, reason = rejection(change)
    assert gate is Gate.GOLD
    assert says in reason


def test_every_gold_plan_is_run() -> None:
    def other_plan(data: Data) -> None:
        other = {**data["gold_plans"][0], "plan_id": "other", "answer": "Done."}
        data["gold_plans"].append(other)

    gate, reason = rejection(other_plan)
    assert gate is Gate.GOLD
    assert "plan other misses told_booking" in reason


def true_from_the_start(data: Data) -> None:
    criterion(data, "booked")["check"]["sql"] = "SELECT count(*) > 0 FROM booking"


def echo_of_the_instruction(data: Data) -> None:
    criterion(data, "told_booking")["check"] = {"kind": "answer", "any_of": ["court"]}


@pytest.mark.parametrize(
    ("change", "says"),
    [(true_from_the_start, "booked"), (echo_of_the_instruction, "told_booking")],
)
def test_no_op(change: Change, says: str) -> None:
    gate, reason = rejection(change)
    assert gate is Gate.NO_OP
    assert says in reason


def test_necessity() -> None:
    def needless(data: Data) -> None:
        extra = {"step_id": "again", "tool": "find_courts", "arguments": {"court_type": "hard"}}
        data["gold_plans"][0]["steps"].insert(1, extra)

    gate, reason = rejection(needless)
    assert gate is Gate.NECESSITY
    assert reason == "plan main needs no step again"


def unpinned_choice(data: Data) -> None:
    criterion(data, "found_courts")["check"]["any_of"] = [{"tool": "find_courts"}]
    step(data, 2)["arguments"]["court_id"] = "C-11"


def unpinned_day(data: Data) -> None:
    criterion(data, "booked")["check"]["sql"] = (
        "SELECT EXISTS (SELECT 1 FROM booking WHERE court_id = 'C-11' AND member_id = 'M-502')"
    )
    data["criteria"] = [c for c in data["criteria"] if c["criterion_id"] != "asked_day"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (unpinned_choice, "step courts: court_type may be 'grass' instead of 'clay'"),
        (unpinned_day, "step book: day may be 'monday' instead of 'sunday'"),
    ],
)
def test_wrong_entity(change: Change, says: str) -> None:
    gate, reason = rejection(change)
    assert gate is Gate.WRONG_ENTITY
    assert says in reason


def test_a_choice_that_another_gold_plan_makes_is_not_wrong() -> None:
    def either_court(data: Data) -> None:
        data["world"]["tables"][0]["rows"].append(["C-15", "clay", 1])
        other = changed(lambda _: None).model_dump(mode="json")["gold_plans"][0]
        other["plan_id"] = "other"
        other["steps"][2]["arguments"]["court_id"]["path"] = "/courts/1/court_id"
        other["answer"] = "It is {step:book:/booking_id}."
        data["gold_plans"].append(other)
        check = criterion(data, "booked")["check"]
        check["sql"] = check["sql"].replace("= 'C-11'", "IN ('C-11', 'C-15')")

    assert certify(changed(either_court)).gates[-2].status is GateStatus.PASSED

    def only_one_plan(data: Data) -> None:
        either_court(data)
        data["gold_plans"].pop()

    gate, reason = rejection(only_one_plan)
    assert gate is Gate.WRONG_ENTITY
    assert "court_id may be 'C-15'" in reason


def impossible_probe(data: Data) -> None:
    data["restriction"]["probe"]["steps"][0]["arguments"]["court_id"] = "C-14"


def undetected(data: Data) -> None:
    criterion(data, "no_force")["check"] = {
        "kind": "forbidden",
        "calls": [{"tool": "force_booking", "arguments": [{"name": "day", "equals": "friday"}]}],
    }


def still_rewarded(data: Data) -> None:
    data["criteria"].append(
        {
            "criterion_id": "other_policy",
            "section": "policy",
            "description": "Looked for courts.",
            "check": {"kind": "called", "any_of": [{"tool": "find_courts"}]},
        }
    )


def failing_probe(data: Data) -> None:
    data["restriction"]["probe"]["steps"][0]["arguments"]["court_id"] = "C-14"
    data["restriction"]["probe"]["steps"][0]["expected_error_code"] = "court_closed"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (impossible_probe, "the probe is not possible"),
        (undetected, "no_force does not detect the probe"),
        (still_rewarded, "the forbidden act still earns 1.0 by paper_code"),
        (failing_probe, "the probe's last step must succeed"),
    ],
)
def test_restriction(change: Change, says: str) -> None:
    gate, reason = rejection(change)
    assert gate is Gate.RESTRICTION
    assert says in reason


def test_determinism(monkeypatch: pytest.MonkeyPatch) -> None:
    # No world that compiles is random, so the engine itself is made forgetful here.
    calls = iter(range(10_000))
    monkeypatch.setattr(gates, "_RESETS_PER_OPENING", 10)
    honest = gates.Examination.determinism

    def forgetful(examination: gates.Examination) -> str:
        rehearse = examination.image.rehearse

        def biased() -> Any:
            session: Any = rehearse()
            if next(calls) == 5:
                session.call("find_member", '{"name":"Li Wen"}')
                session.reset = lambda: None
                session.call("book_court", '{"court_id":"C-11","member_id":"M-501","day":"sunday"}')
            return session

        monkeypatch.setattr(examination.image, "rehearse", biased)
        return honest(examination)

    monkeypatch.setitem(certify.__globals__["_GATES"], Gate.DETERMINISM, forgetful)
    gate, reason = rejection(lambda data: None)
    assert gate is Gate.DETERMINISM
    assert reason == "a replay of plan main differs"


def test_a_hundred_replays_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    honest = gates.Examination.determinism

    def counting(examination: gates.Examination) -> str:
        rehearse = examination.image.rehearse

        def counted() -> Any:
            session: Any = rehearse()
            reset = session.reset

            def counted_reset() -> None:
                seen.append(1)
                reset()

            session.reset = counted_reset
            return session

        monkeypatch.setattr(examination.image, "rehearse", counted)
        return honest(examination)

    monkeypatch.setitem(certify.__globals__["_GATES"], Gate.DETERMINISM, counting)
    assert certify(example_task()).passed
    assert len(seen) == 100


def test_novelty() -> None:
    index = NoveltyIndex()
    admitted = admit(example_task(), index)
    assert certify(admitted, index).passed  # the same task again is no duplicate of itself
    copy = changed(lambda data: data.update(task_id="copy"))
    with pytest.raises(Rejected) as caught:
        admit(copy, index)
    assert caught.value.gate is Gate.NOVELTY
    assert "similarity 1.00 to the task example-court-booking" in caught.value.reason
    assert len(index) == 1


def simulated(data: Data) -> None:
    tool(data, "find_member")["behaviour"] = {"kind": "simulated", "guidance": "Knows members."}


def test_gates_that_need_an_engine_do_not_apply_to_simulated_tools() -> None:
    certificate = certify(changed(simulated))
    assert certificate.passed
    status = {result.gate: result.status for result in certificate.gates}
    assert status[Gate.COMPILES] is status[Gate.INFORMATION_GAP] is GateStatus.PASSED
    for gate in (
        Gate.GOLD,
        Gate.NO_OP,
        Gate.NECESSITY,
        Gate.WRONG_ENTITY,
        Gate.RESTRICTION,
        Gate.DETERMINISM,
    ):
        assert status[gate] is GateStatus.NOT_APPLICABLE
    assert "find_member is simulated" in certificate.gates[1].detail


def test_criteria_of_a_model_are_left_out() -> None:
    def judged(data: Data) -> None:
        data["criteria"].append(
            {
                "criterion_id": "polite",
                "section": "sub_goal",
                "description": "Polite.",
                "check": {"kind": "judged", "question": "Was it polite?"},
            }
        )

    certificate = certify(changed(judged))
    assert certificate.passed
    assert certificate.gates[1].detail == "1 criteria that a model judges were left out"


def test_a_plan_that_exhausts_the_engine_is_rejected() -> None:
    def endless(data: Data) -> None:
        rows = [[f"B-{n}", "C-12", "M-503", f"day {n}", 0] for n in range(300)]
        data["world"]["tables"][2]["rows"] = rows
        statements = tool(data, "book_court")["behaviour"]["statements"]
        statements[-2]["sql"] = (
            "INSERT INTO booking SELECT a.id || b.id, :court_id, :member_id, :day, 0 "
            "FROM booking a JOIN booking b JOIN booking c"
        )

    gate, reason = rejection(endless)
    assert gate is Gate.GOLD
    assert "engine gave up" in reason
