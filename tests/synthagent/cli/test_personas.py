"""`synthagent personas` against a real server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthagent.cli import personas
from tests.synthagent.cli.conftest import Invoke


def test_personas_are_imported_in_batches_and_listed(
    invoke: Invoke,
    invoke_json: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(personas, "MAX_BATCH", 2)
    file = tmp_path / "people.jsonl"
    lines = [
        '"A potter"',
        '{"persona": "A diver", "age": 4}',
        "{",
        '{"text": "A baker"}',
        '"A potter"',
    ]
    file.write_text("\n".join(lines))
    result = invoke("personas", "import", file, "--set", "guild", code=1)
    assert "3 new personas in the set 'guild', 1 that it held already, 3 in all" in result.stdout
    assert "line 3" in result.stdout
    assert "Note: line 2: not kept, here and below: age" in result.stderr
    again = invoke_json("personas", "import", file, "--set", "guild", code=1)
    assert again["total"] == 3
    assert [each["place"] for each in again["rejected"]] == ["line 3"]
    listed = invoke_json("personas", "list", "--set", "guild")["personas"]
    assert [each["description"] for each in listed] == ["A potter", "A diver", "A baker"]
    assert "A diver" in invoke("personas", "list", "--set", "guild").stdout


def test_the_generated_set_is_listed_up_to_a_limit(invoke_json: Callable[..., Any]) -> None:
    assert len(invoke_json("personas", "list", "--limit", "7")["personas"]) == 7


def test_an_unknown_set_and_a_bad_name_are_refused(invoke: Invoke, tmp_path: Path) -> None:
    assert "no set" in invoke("personas", "list", "--set", "nobody", code=4).stderr
    file = tmp_path / "people.jsonl"
    file.write_text('"A potter"')
    assert invoke("personas", "import", file, "--set", "Bad Name", code=2).stderr
