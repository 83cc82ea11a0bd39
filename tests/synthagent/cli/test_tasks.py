"""`synthagent tasks` against a real server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthagent.cli import task_import
from tests.synthagent.cli.conftest import Invoke
from tests.synthagent.interchange.released import RUBRIC, USER, item, system, tool

Json = Callable[..., Any]


def pottery(number: int, **changes: Any) -> dict[str, Any]:
    """An item that is no near-duplicate of another one."""
    words = " ".join(f"w{number}x{position}" for position in range(30))
    prompt = [
        {"role": "system", "content": system(json.dumps(tool(f"Finder {number}")))},
        {"role": "user", "content": USER.replace("new bowls", words)},
    ]
    return item(id=f"pottery-{number}", prompt=prompt, **changes)


def write(path: Path, items: list[Any]) -> Path:
    path.write_text(json.dumps(items, indent=1) if path.suffix == ".json" else
                    "\n".join(json.dumps(each) for each in items))  # fmt: skip
    return path


def test_tasks_are_synthesized_listed_and_shown(invoke: Invoke, invoke_json: Json) -> None:
    arguments = ("tasks", "synthesize", "--count", "2", "--difficulty", "mini", "--seed", "7")
    made = invoke_json(*arguments)
    assert (made["requested"], made["admitted"], len(made["task_ids"])) == (2, 2, 2)
    assert made["yield"] == pytest.approx(2 / made["attempted"])
    assert made["cost_per_admitted"] == 0
    assert invoke_json(*arguments) == made  # the same request, answered from what is stored
    assert "2 of 2 tasks admitted" in invoke(*arguments).stdout
    listed = invoke_json("tasks", "list", "--difficulty", "mini")["tasks"]
    (found,) = [each for each in listed if each["task_id"] == made["task_ids"][0]]
    assert made["task_ids"][0] in invoke("tasks", "list", "--domain", found["domain"]).stdout
    assert len(invoke_json("tasks", "list", "--limit", "1")["tasks"]) == 1
    shown = invoke("tasks", "show", made["task_ids"][0]).stdout
    for part in (
        "It must not",
        "Only the user knows",
        "Certificate",
        found["instruction"][:40],
    ):
        assert part in shown
    assert "\x1b" not in shown
    assert invoke_json("tasks", "show", found["task_id"])["instruction"] == found["instruction"]


@pytest.mark.parametrize("name", ["items.json", "items.jsonl"])
def test_an_import_says_exactly_what_was_imported_and_what_was_not(
    invoke: Invoke, invoke_json: Json, tmp_path: Path, name: str
) -> None:
    first = 10 if name == "items.json" else 20
    items: list[Any] = [pottery(n) for n in range(first, first + 3)]
    items[1]["rubrics"] = None
    file = write(tmp_path / name, items)
    place = "item 1" if name == "items.json" else "line 2"
    expected = {
        "imported": 2,
        "rejected": [
            {
                "id": f"pottery-{first + 1}",
                "place": f"{place}: rubrics",
                "reason": "no sub-goal and no interaction can be told from it",
            }
        ],
    }
    command = ("tasks", "import", "--format", "synthagent", file)
    assert invoke_json(*command, code=1) == expected
    assert invoke_json(*command, code=1) == expected  # a repeat changes nothing
    text = invoke(*command, code=1)
    assert "2 tasks imported" in text.stdout
    assert f"pottery-{first + 1}" in text.stdout


def test_what_was_imported_is_exported_as_it_was(
    invoke: Invoke, invoke_json: Json, tmp_path: Path
) -> None:
    items = [pottery(n, more={"n": n}) for n in range(30, 33)]
    file = write(tmp_path / "items.json", items)
    command = ("tasks", "import", "--format", "synthagent", "--domain", "pots", file)
    assert invoke_json(*command) == {"imported": 3, "rejected": []}
    out = tmp_path / "deep" / "out.jsonl"
    export = ("tasks", "export", "--format", "synthagent", "--domain", "pots")
    assert invoke_json(*export, "--out", out) == {"exported": 3, "file": str(out)}
    assert [json.loads(line) for line in out.read_text().splitlines()] == items
    assert json.loads(invoke(*export).stdout) == items
    array = tmp_path / "out.json"
    invoke("tasks", "export", "--format", "synthagent", "pottery-31", "--out", array)
    assert json.loads(array.read_text()) == [items[1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "items.json", "out.json"]


def test_native_tasks_go_out_and_in(invoke: Invoke, invoke_json: Json, tmp_path: Path) -> None:
    invoke_json(
        "tasks", "synthesize", "--count", "1", "--difficulty", "mini", "--split", "held_out"
    )
    out = tmp_path / "tasks.jsonl"
    invoke("tasks", "export", "--split", "held_out", "--difficulty", "mini", "--out", out)
    task = json.loads(out.read_text())
    broken = {**task, "task_id": "broken", "gold_plans": []}
    lines = [
        json.dumps(task),
        "{",
        json.dumps({"task_id": "x", "color": "red"}),
        json.dumps(broken),
    ]
    out.write_text("\n".join(lines))
    result = invoke_json("tasks", "import", "--format", "native", out, code=1)
    assert result["imported"] == 1
    rejected = result["rejected"]
    assert [(each["id"], each["place"]) for each in rejected] == [
        ("", "line 2"),
        ("x", "line 3"),
        ("broken", "line 4: task"),
    ]
    assert "color" in rejected[1]["reason"]
    assert "needs a gold plan" in rejected[2]["reason"]


def test_a_gate_that_fails_is_told_with_the_place(invoke_json: Json, tmp_path: Path) -> None:
    twin = {**pottery(40), "id": "twin"}
    file = write(tmp_path / "items.jsonl", [pottery(40), twin])
    result = invoke_json("tasks", "import", "--format", "synthagent", file, code=1)
    assert result["imported"] == 1
    (rejected,) = result["rejected"]
    assert (rejected["id"], rejected["place"]) == ("twin", "line 2")
    assert rejected["reason"].startswith("gate novelty: ")


def test_notes_go_to_standard_error(invoke: Invoke, tmp_path: Path) -> None:
    given = pottery(50, rubrics=RUBRIC + "\n### 4. Remarks\nNothing else.\n", task_background=None)
    file = write(tmp_path / "items.jsonl", [given])
    result = invoke("tasks", "import", "--format", "synthagent", file, "--json")
    assert json.loads(result.stdout) == {"imported": 1, "rejected": []}
    assert "pottery-50: line 1: task_background: it is missing" in result.stderr
    assert "Nothing else." in result.stderr
    assert "Nothing else." in invoke("tasks", "show", "pottery-50").stdout


def test_a_large_file_goes_in_batches(
    invoke_json: Json, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_import, "MAX_BATCH", 2)
    items: list[Any] = [pottery(n) for n in range(60, 65)]
    items[3] = {"id": "none"}
    file = write(tmp_path / "items.jsonl", items)
    result = invoke_json("tasks", "import", "--format", "synthagent", file, code=1)
    assert result["imported"] == 4
    assert [each["id"] for each in result["rejected"]] == ["none"]
    monkeypatch.setattr(task_import, "MAX_BATCH_BYTES", 1)
    assert invoke_json("tasks", "import", "--format", "synthagent", file, code=1) == result


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("tasks", "show", "nowhere"), 4, "There is no task 'nowhere'"),
        (("tasks", "export", "nowhere"), 4, "There is no task 'nowhere'"),
        (("tasks", "import", "--format", "synthagent", "no-such-file"), 2, "does not exist"),
        (("tasks", "import", "--format", "csv", __file__), 2, "csv"),
        (("tasks", "synthesize", "--count", "0"), 2, "greater than or equal to 1"),
        (("tasks", "synthesize", "--difficulty", "minni"), 2, "did you mean 'mini'"),
        (("tasks", "synthesize", "--attempts", "3"), 2, "--teacher model"),
        (
            ("tasks", "synthesize", "--teacher", "model", "--route", "x"),
            2,
            "dimension=value:weight",
        ),
        (("tasks", "synthesize", "--teacher", "model"), 4, "SYNTHAGENT_TEACHER__BASE_URL"),
        (("tasks",), 2, "synthesize"),
    ],
)
def test_a_failure_has_its_exit_code_and_says_why(
    invoke: Invoke, arguments: tuple[str, ...], code: int, told: str
) -> None:
    result = invoke(*arguments, code=code)
    assert told in " ".join(result.output.replace("│", " ").split())


def test_a_refusal_is_also_json(invoke_json: Json) -> None:
    found = invoke_json("tasks", "show", "nowhere", code=4)
    assert found["error"]["reason"] == "NOT_FOUND"
    assert "nowhere" in found["error"]["message"]
