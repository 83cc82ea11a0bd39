"""Labelled sets: read with clear complaints, judged, and compared by figures worked out by hand."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import MessageToDict

from synthagent.calibration import (
    JudgedItem,
    LabelledItem,
    calibrate,
    compare,
    read_labelled,
)
from synthagent.convert import event_to_proto, task_to_proto
from synthagent.errors import InvalidInput, ModelMalformed, ModelUnavailable
from synthagent.worlds.engine import compile_world
from synthagent.worlds.episode import CriterionResult, Votes
from synthagent.worlds.judgement import CriterionJudgement, Judgement
from synthagent.worlds.plans import run_plan
from tests.example_task import example_task

TASK = example_task()
EVENTS = tuple(run_plan(compile_world(TASK.world), TASK, TASK.gold_plans[0]))
ITEM: dict[str, Any] = {
    "id": "a",
    "task": TASK.model_dump(mode="json"),
    "events": [event.model_dump(mode="json") for event in EVENTS],
    "criterion_id": "booked",
    "label": "YES",
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(*items: object) -> Path:
        path = tmp_path / "set.jsonl"
        lines = [i if isinstance(i, bytes) else orjson.dumps(i) for i in items]
        path.write_bytes(b"\n".join(lines))
        return path

    return write


def test_items_are_read_in_the_form_of_the_values(write: Callable[..., Path]) -> None:
    stored = {**ITEM, "id": "b", "label": "NO", "task_id": "some-task", "note": "unclear"}
    del stored["task"]
    assert read_labelled(write(ITEM, b"", b"  ", stored)) == (
        LabelledItem(item_id="a", subject=TASK, events=EVENTS, criterion_id="booked", label="YES"),
        LabelledItem(
            item_id="b", subject="some-task", events=EVENTS, criterion_id="booked", label="NO"
        ),
    )


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"preserving_proto_field_name": True},
        {"preserving_proto_field_name": True, "always_print_fields_with_no_presence": True},
    ],
)
def test_items_are_read_in_the_form_of_the_contract(
    write: Callable[..., Path], form: dict[str, Any]
) -> None:
    task = MessageToDict(task_to_proto(TASK), **form)
    events = [MessageToDict(event_to_proto(e, 1_700_000_000_000_000), **form) for e in EVENTS]
    item = read_labelled(write({**ITEM, "task": task, "events": events}))[0]
    assert item.subject == TASK
    assert item.events == EVENTS


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"label": "maybe"}, 'label is "maybe"; give YES or NO'),
        ({"label": ["YES"]}, r'label is \["YES"\]; give YES or NO'),
        ({"label": None}, "label is null"),
        ({"id": 7}, "id is 7; give a text"),
        ({"criterion_id": ""}, "criterion_id is"),
        ({"criterion_id": "rude"}, "no criterion 'rude'; it has no_force"),
        ({"task_id": "x"}, "either task or task_id"),
        ({"task": None}, "task is no JSON object"),
        ({"task": {"task_id": "x"}}, "task"),
        ({"task": {"criteria": [{"check": {}}]}}, r"task\.task_id"),
        ({"task": {"colour": "red"}}, "colour"),
        ({"events": []}, "at least one event"),
        ({"events": {"sequence": 0}}, "at least one event"),
        ({"events": ITEM["events"][1:]}, r"events\[0\] has sequence 1"),
        ({"events": [7]}, r"events\[0\] is no JSON object"),
        ({"events": [{"sequence": "first", "end": {}}]}, r"events\[0\]"),
        ({"events": [{"sequence": 0}]}, r"events\[0\] needs one of agent"),
        ({"events": [{"sequence": 0, "body": {"kind": "dance"}}]}, r"events\[0\]\.body"),
    ],
)
def test_a_bad_line_is_told_with_its_number(
    write: Callable[..., Path], change: dict[str, object], complaint: str
) -> None:
    with pytest.raises(InvalidInput, match=f"no labelled set: line 2: .*{complaint}"):
        read_labelled(write(ITEM, {**ITEM, "id": "b", **change}))


def test_every_bad_line_is_told_up_to_ten(write: Callable[..., Path]) -> None:
    with pytest.raises(InvalidInput, match=r"line 1: is no JSON: .*; line 3: is no JSON object"):
        read_labelled(write(b"{", ITEM, b"[1]"))
    with pytest.raises(InvalidInput, match=r"line 10: .*; and 5 more bad lines"):
        read_labelled(write(*[b"{"] * 15))
    with pytest.raises(InvalidInput, match="line 2: id 'a' stands in line 1, too"):
        read_labelled(write(ITEM, ITEM))


def test_what_is_no_set_at_all(tmp_path: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_labelled(tmp_path / "nowhere.jsonl")
    with pytest.raises(InvalidInput, match="UTF-8"):
        read_labelled(write(b"\xff\xfe{"))
    with pytest.raises(InvalidInput, match="holds no items"):
        read_labelled(write(b"", b" "))


def judged(label: str, judgement: Judgement | None, votes: Votes | None = None) -> JudgedItem:
    return JudgedItem.model_validate(
        {
            "item_id": "x",
            "criterion_id": "booked",
            "label": label,
            "judgement": judgement,
            "explanation": "",
            "votes": votes,
        }
    )


YES, NO, ABSTAIN = Judgement.YES, Judgement.NO, Judgement.ABSTAIN


def test_figures_of_a_set_worked_out_by_hand() -> None:
    """20 decided items: 8 YES/YES, 2 YES/NO, 3 NO/YES, 7 NO/NO. Observed 15/20; by chance
    (10 * 11 + 10 * 9) / 400 = 1/2; kappa = (3/4 - 1/2) / (1 - 1/2) = 1/2."""
    rows = [("YES", YES)] * 8 + [("YES", NO)] * 2 + [("NO", YES)] * 3 + [("NO", NO)] * 7
    items = [judged(label, judgement) for label, judgement in rows]
    items += [judged("YES", ABSTAIN, Votes(yes=1, no=1, abstain=1)), judged("NO", None)]
    items += [judged("NO", ABSTAIN, Votes(abstain=3))] * 4
    found = compare(items)
    assert (found.items, found.decided, found.abstained, found.faults) == (26, 20, 5, 1)
    assert found.agreement == 15 / 20
    assert found.kappa == pytest.approx(0.5)
    assert found.abstention == 5 / 25
    assert found.vote_agreement == pytest.approx((1 / 3 + 4) / 5)
    assert found.confusion == {
        "YES": {YES: 8, NO: 2, ABSTAIN: 1},
        "NO": {YES: 3, NO: 7, ABSTAIN: 4},
    }
    assert [item.judgement for item in found.disagreements] == [NO] * 2 + [YES] * 3
    assert len(found.undecided) == 6


@pytest.mark.parametrize(
    ("rows", "agreement", "kappa"),
    [
        ([("YES", YES), ("NO", NO)], 1.0, 1.0),
        ([("YES", NO), ("NO", YES)], 0.0, -1.0),
        ([("YES", YES), ("YES", NO)], 0.5, 0.0),
        ([("YES", YES), ("YES", YES)], 1.0, None),
        ([("YES", ABSTAIN)], None, None),
        ([], None, None),
    ],
)
def test_edges_of_the_figures(
    rows: list[tuple[str, Judgement]], agreement: float | None, kappa: float | None
) -> None:
    found = compare([judged(label, judgement) for label, judgement in rows])
    assert (found.agreement, found.kappa) == (agreement, kappa)
    assert found.model_dump_json()


def items(count: int) -> list[LabelledItem]:
    return [
        LabelledItem(
            item_id=str(number),
            subject="t",
            events=EVENTS,
            criterion_id="booked",
            label="YES" if number % 2 else "NO",
        )
        for number in range(count)
    ]


def judgement(answer: Judgement) -> CriterionJudgement:
    result = CriterionResult(
        criterion_id="booked", satisfied=answer is YES, explanation="Seen.", votes=Votes(yes=1)
    )
    return CriterionJudgement(judgement=answer, result=result)


async def test_items_are_judged_side_by_side_and_heard_of() -> None:
    running, most = 0, 0
    heard: list[JudgedItem] = []

    async def judge(item: LabelledItem) -> CriterionJudgement:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        if item.item_id == "3":
            raise ModelMalformed("The judge model stammers.")
        return judgement(YES)

    found = await calibrate(items(10), judge, concurrency=4, on_judged=heard.append)
    assert most == 4
    assert len(heard) == 10
    assert (found.decided, found.faults) == (9, 1)
    assert found.undecided[0].explanation == "The judge model stammers."
    assert [item.item_id for item in found.disagreements] == ["0", "2", "4", "6", "8"]


async def test_a_server_that_is_gone_ends_the_calibration() -> None:
    ended = 0

    async def judge(item: LabelledItem) -> CriterionJudgement:
        nonlocal ended
        if item.item_id == "1":
            raise ModelUnavailable("gone")
        try:
            await asyncio.sleep(10)
        finally:
            ended += 1
        return judgement(YES)

    with pytest.raises(ModelUnavailable):
        await calibrate(items(4), judge)
    assert ended == 3
