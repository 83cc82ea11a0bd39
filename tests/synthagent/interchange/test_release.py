"""Released items become tasks that certify, and tasks become the items that they were made from."""

import copy
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthagent.convert import task_from_proto, task_to_proto
from synthagent.interchange import Imported, Rejection, Unparsed, from_item, read_released, to_item
from synthagent.worlds.certify import admit
from synthagent.worlds.criteria import Criterion, ForbiddenCheck, JudgedCheck, Section
from synthagent.worlds.spec import GateStatus, Split, Task
from tests.example_task import example_task
from tests.synthagent.interchange.released import POLICY, RUBRIC, USER, item, system, tool


def imported(**changes: Any) -> Imported:
    return from_item(item(**changes), Split.HELD_OUT)


def reasons(found: Imported) -> dict[str, str]:
    return {note.place: note.reason for note in found.notes}


def of(task: Task, section: Section) -> list[Criterion]:
    return [criterion for criterion in task.criteria if criterion.section is section]


def test_an_item_becomes_a_task_with_everything_in_its_place() -> None:
    found = imported()
    task = found.task
    assert found.notes == ()
    assert task.task_id == "0b7c2f6e-firing"
    assert (task.domain, task.teacher, task.split) == (
        "synthagent-release",
        "import",
        Split.HELD_OUT,
    )
    assert task.instruction == "Plan a firing for the studio's new bowls."
    assert task.background == "The bowls are stoneware. The studio fires on Thursdays."
    assert task.facts == ()
    assert task.workflow == ("Find a glaze recipe", "Reserve a kiln")
    assert [each.name for each in task.world.tools] == ["GlazeFinder", "KilnScheduler"]
    assert [each.changes_state for each in task.world.tools] == [False, True]
    assert task.restriction.text + " " + task.restriction.reason == POLICY
    assert task.restriction.reason.startswith("This restriction exists because")
    assert task.restriction.criterion_id == "policy_1a"
    assert [criterion.criterion_id for criterion in task.criteria] == [
        "policy_1a", "policy_1b", "sub_goal_1", "sub_goal_2", "interaction_1",
    ]  # fmt: skip
    for criterion in task.criteria:
        assert criterion.source_text in RUBRIC
        assert isinstance(criterion.check, JudgedCheck)
        assert criterion.source_text in criterion.check.question
    assert task.criteria[2].description == "Find a glaze recipe: Use `GlazeFinder` with the clay."


def test_a_task_certifies_and_survives_the_contract() -> None:
    task = admit(imported().task)
    assert task.certificate is not None
    statuses = {result.gate.value: result.status for result in task.certificate.gates}
    assert statuses["gold"] is GateStatus.NOT_APPLICABLE
    assert statuses["compiles"] is GateStatus.PASSED
    again = task_from_proto(task_to_proto(task))
    assert again == task
    assert to_item(again) == item()


SYSTEM, PLAIN = system(), USER
CHAT = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{PLAIN}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
MESSAGES = item()["prompt"]
NO_POLICY_SECTION = "### 2. Task Sub-goals" + RUBRIC.split("### 2. Task Sub-goals")[1]

VARIANTS: dict[str, dict[str, Any]] = {
    "as-written": {},
    "prompt-text": {"prompt": f"{SYSTEM}\n{PLAIN}"},
    "prompt-chat-template": {"prompt": CHAT},
    "prompt-json": {"prompt": json.dumps(MESSAGES)},
    "prompt-json-unicode": {
        "prompt": json.dumps(MESSAGES, ensure_ascii=False, separators=(",", ":"))
    },
    "one-message": {"prompt": [{"role": "user", "content": f"{SYSTEM}\n\n{PLAIN}"}]},
    "user-first": {"prompt": MESSAGES[::-1]},
    "no-background": {"task_background": ...},
    "background-none": {"task_background": None},
    "background-empty": {"task_background": ""},
    "background-odd-space": {"task_background": "  told \r\n\n"},
    "no-id": {"id": ...},
    "number-as-id": {"id": 17},
    "odd-id": {"id": "Töpfe/Nr. 5 " * 9},
    "more-keys": {"data_source": {"name": "x", "n": [1, 2.5, None]}, "split": "validation"},
    "message-keys": {"prompt": [{**m, "name": "n", "weight": 0} for m in MESSAGES]},
    "other-names": {"prompt": ..., "messages": MESSAGES, "rubrics": ..., "rubric": RUBRIC},
    "no-policy": {"prompt": [{"role": "system", "content": system(policy=None)}, MESSAGES[1]]},
    "odd-policy": {
        "prompt": [{"role": "system", "content": system(policy="Be\nkind to kilns")}, MESSAGES[1]]
    },
    "no-policy-section": {"rubrics": NO_POLICY_SECTION},
    "no-interactions": {"rubrics": RUBRIC.split("### 3.")[0]},
    "no-sub-goals": {"rubrics": RUBRIC.split("### 2.")[0] + "### 3." + RUBRIC.split("### 3.")[1]},
    "no-task-label": {
        "prompt": [
            MESSAGES[0],
            {"role": "user", "content": "Fire the bowls.\n\n### Requirements:\n1. x"},
        ]
    },
    "ascii-tools": {
        "prompt": [{"role": "system", "content": system(json.dumps(tool()))}, MESSAGES[1]]
    },
    "tools-over-lines": {
        "prompt": [
            {"role": "system", "content": system(json.dumps([tool()], indent=2))},
            MESSAGES[1],
        ]
    },
    "tools-twice": {
        "prompt": [
            {"role": "system", "content": system(f"{json.dumps(tool())}\n{json.dumps(tool())}")},
            MESSAGES[1],
        ]
    },
    "windows": {"rubrics": RUBRIC.replace("\n", "\r\n")},
    "longer-talk": {"prompt": [*MESSAGES, {"role": "assistant", "content": "Hello."}]},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_form_is_imported_certified_and_given_back(name: str) -> None:
    given = item(**VARIANTS[name])
    original = copy.deepcopy(given)
    task = from_item(given, Split.TRAIN, "pottery").task
    assert given == original
    admit(task)
    assert to_item(task_from_proto(task_to_proto(task))) == original


def test_what_is_missing_is_noted() -> None:
    assert reasons(imported(task_background=...)) == {"task_background": "it is missing"}
    assert reasons(imported(task_background=None)) == {"task_background": "it is missing"}
    assert "id" in reasons(imported(id=...))
    assert reasons(imported(**VARIANTS["no-policy"])) == {
        "prompt": "there is no policy; the rubric's criterion stands for it"
    }
    assert reasons(imported(**VARIANTS["longer-talk"])) == {
        "prompt[2]": "a message of 'assistant', kept and not used"
    }
    notes = imported(rubrics=RUBRIC + "\n### 4. Remarks\nNothing.\n")
    assert list(reasons(notes)) == [f"rubric, line {RUBRIC.count(chr(10)) + 3}"]
    assert notes.task.origin is not None
    assert "Nothing." in notes.task.origin.texts["notes"]


def test_a_restriction_without_a_criterion_gets_one_from_the_policy() -> None:
    task = imported(rubrics=NO_POLICY_SECTION).task
    policies = of(task, Section.POLICY)
    assert [(p.criterion_id, p.source_text) for p in policies] == [("policy_restriction", POLICY)]
    assert task.restriction.criterion_id == "policy_restriction"


@pytest.mark.parametrize(
    ("policy", "rule", "reason"),
    [
        (POLICY, POLICY.split(" This")[0], "This" + POLICY.split(" This")[1]),
        ("Keep the lid shut because heat escapes.", "Keep the lid shut", "because heat escapes."),
        ("Never open it. It is hot.", "Never open it.", "It is hot."),
        ("Never open it", "Never open it", "No reason is stated."),
        ("Nie öffnen! Reason: heat", "Nie öffnen!", "Reason: heat"),
    ],
)
def test_a_policy_is_divided_into_rule_and_reason(policy: str, rule: str, reason: str) -> None:
    content = system(policy=policy)
    task = imported(prompt=[{"role": "system", "content": content}, MESSAGES[1]]).task
    assert (task.restriction.text, task.restriction.reason) == (rule, reason)


def test_the_rule_names_a_renamed_tool_as_the_agent_knows_it() -> None:
    content = system(
        json.dumps(tool("3D Kiln")), "Tool 3D Kiln must NOT be used to melt. It is hot."
    )
    task = imported(prompt=[{"role": "system", "content": content}, MESSAGES[1]]).task
    assert task.restriction.text == "Tool tool_3D Kiln must NOT be used to melt."


@pytest.mark.parametrize(
    ("said", "certain"),
    [
        ("- **Criteria**: The agent must not use `KilnScheduler` at any point.", True),
        ("- The agent must never call KilnScheduler under any circumstances.", True),
        ("- Any call to `KilnScheduler` constitutes a direct policy violation.", True),
        ("- The agent must not use `KilnScheduler` to book leaded glazes.", False),
        ("- The agent must not use `KilnScheduler` at any point before it asks.", False),
        ("- Any call to `KilnScheduler` is a violation unless the user insists.", False),
        ("- The agent must not use `KilnScheduler` at any point.\n- It must not shout.", False),
        ("- The agent must not use `LeadMixer` at any point.", False),
        ("- It must not use `KilnScheduler` at any point.\n- Nor `GlazeFinder`.", False),
    ],
)
def test_the_engine_checks_only_what_it_can_be_certain_of(said: str, *, certain: bool) -> None:
    rubric = f"### 1. Policy\n#### 1a. Direct Violations\n{said}\n" + NO_POLICY_SECTION
    task = imported(rubrics=rubric).task
    check = of(task, Section.POLICY)[0].check
    assert isinstance(check, ForbiddenCheck if certain else JudgedCheck)
    if isinstance(check, ForbiddenCheck):
        assert [(call.tool, call.count_failed) for call in check.calls] == [("KilnScheduler", True)]
    admit(task)


@pytest.mark.parametrize(
    ("changes", "place", "reason"),
    [
        ({"prompt": ...}, "prompt", "has none"),
        ({"prompt": 5}, "prompt", "no list of messages"),
        ({"prompt": "words"}, "prompt", "no <tools> block"),
        ({"prompt": [MESSAGES[0], {"role": "user"}]}, "prompt[1].content", "no text"),
        ({"prompt": [MESSAGES[1]]}, "prompt", "no <tools> block"),
        ({"prompt": [MESSAGES[0]]}, "prompt[0].content", "no message of the user"),
        ({"prompt": [{"role": "system", "content": system("{")}, MESSAGES[1]]}, "tools, line 1",
         "no JSON"),
        ({"prompt": [MESSAGES[0], {"role": "user", "content": " "}]}, "prompt[1].content", "empty"),
        ({"prompt": [MESSAGES[0], {"role": "user", "content": "a" * 5000}]}, "instruction", "4000"),
        ({"task_background": ["a"]}, "task_background", "no text"),
        ({"task_background": "a" * 30_000}, "background", "20000"),
        ({"rubrics": ...}, "rubrics", "no sub-goal and no interaction"),
        ({"rubrics": "Be nice."}, "rubrics", "no sub-goal and no interaction"),
        ({"rubrics": {"a": 1}}, "rubrics", "no text"),
        ({"task_background": "\ud800"}, "item", "Unicode"),
        ({"extra": float("nan")}, "item", "JSON"),
        ({"extra": 2**70}, "item", "JSON"),
        ({"prompt": [{"role": "system", "content": system(policy=None)}, MESSAGES[1]],
          "rubrics": NO_POLICY_SECTION}, "prompt", "no policy"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_told_with_its_place(
    changes: dict[str, Any], place: str, reason: str
) -> None:
    with pytest.raises(Unparsed, match=reason) as caught:
        imported(**changes)
    assert caught.value.place == place


def lines(*items: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in items)


@pytest.mark.parametrize(
    "write",
    [
        lambda items: json.dumps(items).encode(),
        lambda items: json.dumps(items, indent=2).encode(),
        lambda items: lines(*items),
        lambda items: "\n\n".join(json.dumps(each, indent=2) for each in items).encode(),
        lambda items: b"\xef\xbb\xbf" + lines(*items),
    ],
    ids=["array", "indented", "lines", "indented-lines", "byte-order-mark"],
)
def test_a_file_is_read_in_every_form(write: Callable[[list[Any]], bytes]) -> None:
    items = [item(id=f"item-{number}") for number in range(40)]
    found = list(read_released(io.BytesIO(write(items)), Split.TRAIN))
    assert [to_item(each.task) for each in found if isinstance(each, Imported)] == items


def test_a_bad_item_is_reported_and_the_others_are_read() -> None:
    content = lines(item(id="a"), item(id="b", rubrics=None)) + b'{"id": "c"\n\n' + lines(
        item(id="a"), item(id="d"), "words"
    )  # fmt: skip
    found = list(read_released(io.BytesIO(content), Split.TRAIN))
    rejected = [each for each in found if isinstance(each, Rejection)]
    assert [each.task.task_id for each in found if isinstance(each, Imported)] == ["a", "d"]
    assert [(each.item_id, each.place) for each in rejected] == [
        ("b", "line 2: rubrics"),
        ("", "line 3"),
        ("a", "line 5: id"),
        ("", "line 7: item"),
    ]
    assert "line 1" in rejected[2].reason


def test_nothing_is_read_after_a_fault_in_an_array_and_that_is_told() -> None:
    content = json.dumps([item(id="a"), item(id="b")]).encode()[:-40]
    found = list(read_released(io.BytesIO(content), Split.TRAIN))
    assert isinstance(found[0], Imported)
    assert isinstance(found[1], Rejection)
    assert found[1].place == "item 1"
    assert "nothing after it was read" in found[1].reason


def test_a_task_that_was_changed_since_says_what_it_says_now() -> None:
    task = imported().task
    changed = task.model_copy(update={"background": "It is porcelain."})
    assert to_item(changed) == item(task_background="It is porcelain.")
    fewer = task.model_copy(update={"criteria": task.criteria[:4]})
    exported = to_item(fewer)
    assert exported["id"] == item()["id"]
    assert "Firing day" not in str(exported["rubrics"])


def test_a_task_of_ours_is_exported_in_a_form_that_is_read_again() -> None:
    task = example_task()
    exported = to_item(task)
    again = from_item(exported, Split.TRAIN).task
    assert again.instruction == task.instruction
    assert again.restriction.text == task.restriction.text
    for section in Section:
        descriptions = [c.description for c in of(task, section)]
        assert [c.description for c in of(again, section)] == descriptions
    assert [each.name for each in again.world.tools] == [each.name for each in task.world.tools]
    assert [each.input_schema for each in again.world.tools] == [
        each.input_schema for each in task.world.tools
    ]
    for fact in task.facts:
        assert fact.spoken in again.background


def test_every_released_item_is_imported_certified_and_given_back() -> None:
    path = os.environ.get("SYNTHAGENT_RELEASED_TASKS")
    if not path:
        pytest.skip("SYNTHAGENT_RELEASED_TASKS names no file of released items")
    content = Path(path).read_bytes()
    items = json.loads(content)
    found = list(read_released(io.BytesIO(content), Split.HELD_OUT))
    assert [each for each in found if isinstance(each, Rejection)] == []
    for given, each in zip(items, found, strict=True):
        assert isinstance(each, Imported)
        task = admit(each.task)
        assert to_item(task) == given
        told = "\n".join([*(c.source_text for c in task.criteria), *(n.reason for n in each.notes)])
        for line in given["rubrics"].split("\n"):
            heading = line.startswith(("#", "|", "---")) or not line.strip()
            assert heading or line.strip() in told, line
