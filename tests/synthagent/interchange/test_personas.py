"""Persona JSONL of several origins."""

import io
import json
from typing import Any

import pytest

from synthagent.interchange import ImportedPersona, Rejection, read_personas


def read(*lines: Any) -> list[ImportedPersona | Rejection]:
    text = "\n".join(json.dumps(line) for line in lines)
    return list(read_personas(io.BytesIO(text.encode())))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A potter in Ghent", ("", "", "A potter in Ghent")),
        ({"persona": "A potter"}, ("", "", "A potter")),
        (
            {"description": "A potter", "name": "Ann", "role": "teacher"},
            ("Ann", "teacher", "A potter"),
        ),
        ({"text": " A potter \n"}, ("", "", "A potter")),
        ({"persona": {"name": "Ann", "description": "A potter"}}, ("Ann", "", "A potter")),
        ({"persona": "A potter", "occupation": "kiln hand"}, ("", "kiln hand", "A potter")),
    ],
)
def test_a_persona_is_read_from_every_form(line: Any, expected: tuple[str, str, str]) -> None:
    (found,) = read(line)
    assert isinstance(found, ImportedPersona)
    persona = found.persona
    assert (persona.name, persona.role, persona.description) == expected
    assert found.notes == ()


def test_a_bad_line_is_reported_by_its_number_and_the_others_are_read() -> None:
    content = (
        b'"A potter"\n\n{"name": "Ann"}\nnot json\n["x"]\n{"persona": ""}\n\xff\xfe\n7\n"Last"\n'
    )
    found = list(read_personas(io.BytesIO(content)))
    assert [each.place for each in found if isinstance(each, ImportedPersona)] == [
        "line 1",
        "line 9",
    ]
    rejected = {each.place: each.reason for each in found if isinstance(each, Rejection)}
    assert list(rejected) == ["line 3", "line 4", "line 5", "line 6", "line 7", "line 8"]
    assert "persona, description, text" in rejected["line 3"]
    assert "not JSON" in rejected["line 4"]
    assert "not UTF-8" in rejected["line 7"]


def test_keys_without_a_place_are_noted_once() -> None:
    lines = [{"persona": "A", "age": 3}, {"persona": "B", "age": 4}, {"persona": "C", "city": "x"}]
    found = read(*lines)
    notes = [note for each in found if isinstance(each, ImportedPersona) for note in each.notes]
    assert [(note.place, note.reason) for note in notes] == [
        ("line 1", "not kept, here and below: age"),
        ("line 3", "not kept, here and below: city"),
    ]


def test_a_persona_that_is_too_long_or_no_unicode_is_refused() -> None:
    found = read("a" * 5000, {"text": "\ud800"})
    assert [isinstance(each, Rejection) for each in found] == [True, True]
