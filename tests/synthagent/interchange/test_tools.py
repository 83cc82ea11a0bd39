"""Tools as models write them: read for what they mean, and given back as they were."""

import json
from typing import Any

import pytest

from synthagent.interchange.findings import Unparsed
from synthagent.interchange.tools import read_tools, render_tools
from synthagent.worlds.engine import compile_world
from synthagent.worlds.spec import SimulatedBehaviour, World
from tests.synthagent.interchange.released import tool


def block(*tools: Any) -> str:
    return "\n".join(json.dumps(each, ensure_ascii=False) for each in tools)


@pytest.mark.parametrize(
    "text",
    [
        block(tool(), tool("Other")),
        json.dumps([tool(), tool("Other")], indent=2),
        json.dumps(tool(), indent=1) + "\n\n" + json.dumps(tool("Other"), indent=4),
        f"[{json.dumps(tool())},\n{json.dumps(tool('Other'))}\n]",
        f"{json.dumps(tool())}, {json.dumps(tool('Other'))},",
    ],
    ids=["lines", "array", "over-lines", "array-lines", "commas"],
)
def test_tools_may_stand_in_any_layout(text: str) -> None:
    found = read_tools(text)
    assert [each.name for each in found.tools] == ["GlazeFinder", "Other"]
    assert found.notes == []
    assert render_tools(found.tools, found.odd) == [tool(), tool("Other")]


PYTHON_TYPES = tool(
    parameters={
        "type": "dict",
        "properties": {
            "a": {"type": "float", "required": True},
            "b": {"type": "List[str]", "items": "str"},
            "c": "int",
            "d": {"type": "any", "enum": []},
            "e": {"type": ["str", "None"]},
            "type": {"type": "string"},
        },
        "required": ["a"],
    }
)
ODD: list[tuple[Any, str]] = [
    (tool(outputs=None), "GlazeFinder"),
    (tool(outputs={"type": "object"}), "GlazeFinder"),
    (tool(outputs="A recipe as text"), "GlazeFinder"),
    (tool(outputs={"recipe": {"type": "string"}}), "GlazeFinder"),
    (tool(outputs=["recipe"]), "GlazeFinder"),
    (tool(parameters=None), "GlazeFinder"),
    (tool(parameters={}), "GlazeFinder"),
    (tool(parameters={"type": "object"}), "GlazeFinder"),
    (tool(parameters={"properties": {"clay": {"type": "string"}}}), "GlazeFinder"),
    (tool(parameters={"clay": {"type": "string"}}), "GlazeFinder"),
    (tool(parameters=[{"name": "clay", "type": "str", "required": True}]), "GlazeFinder"),
    (PYTHON_TYPES, "GlazeFinder"),
    (tool(description=None), "GlazeFinder"),
    (tool(description="long " * 400), "GlazeFinder"),
    (tool(category="search", strict=True), "GlazeFinder"),
    (tool()["function"], "GlazeFinder"),
    ({"type": "function", "function": {"name": "Bare"}}, "Bare"),
    (tool("Glaze Finder"), "Glaze Finder"),
    (tool("3D Kiln"), "tool_3D Kiln"),
    (tool("[KilnMap]"), "KilnMap"),
    (tool("Fröhlich/Öfen"), "Frohlich_Ofen"),
    (tool("天气查询"), "tool_1"),
    (tool(" padded "), "padded"),
    (tool("tab\there"), "tab_here"),
    (tool("x" * 100), "x" * 64),
]


@pytest.mark.parametrize(("given", "name"), ODD)
def test_an_odd_tool_is_read_compiles_and_is_given_back(given: Any, name: str) -> None:
    found = read_tools(block(given))
    assert [each.name for each in found.tools] == [name]
    compile_world(World(tools=tuple(found.tools)))
    assert render_tools(found.tools, found.odd) == [given]


def test_the_types_of_python_become_those_of_json_schema() -> None:
    schema = read_tools(block(PYTHON_TYPES)).tools[0].input_schema
    assert schema == {
        "type": "object",
        "properties": {
            "a": {"type": "number"},
            "b": {"type": "array", "items": {"type": "string"}},
            "c": {"type": "integer"},
            "d": {},
            "e": {"type": ["string", "null"]},
            "type": {"type": "string"},
        },
        "required": ["a"],
    }


def test_what_an_odd_result_says_is_told_to_the_model() -> None:
    found = read_tools(block(tool(outputs="A recipe as text")))
    behaviour = found.tools[0].behaviour
    assert isinstance(behaviour, SimulatedBehaviour)
    assert behaviour.guidance == "Result: A recipe as text"
    assert found.tools[0].output_schema is None
    assert found.notes == [
        ("tool 0", "its outputs are no schema; they are told to the model as text")
    ]


def test_a_name_that_stands_twice_is_kept_apart_and_given_back() -> None:
    given = [tool(), tool(description="Another one."), tool("GlazeFinder_2")]
    found = read_tools(block(*given))
    assert [each.name for each in found.tools] == [
        "GlazeFinder",
        "GlazeFinder_2",
        "GlazeFinder_2_2",
    ]
    assert render_tools(found.tools, found.odd) == given
    assert [place for place, _ in found.notes] == ["tool 1", "tool 2"]


def test_a_tool_that_was_changed_since_is_not_given_back_as_it_was() -> None:
    found = read_tools(block(tool(outputs=None)))
    changed = found.tools[0].model_copy(update={"description": "Changed."})
    rendered: Any = render_tools([changed], found.odd)
    assert rendered[0]["function"]["description"] == "Changed."


def test_a_key_that_stands_twice_is_noted() -> None:
    text = '{"name": "A", "description": "one", "description": "two"}'
    found = read_tools(text)
    assert found.tools[0].description == "two"
    assert ("tools", "the key 'description' stands twice; the last counts") in found.notes


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        (block(tool()) + "\n{'name': 'x'}", "tools, line 2", "no JSON"),
        (block(tool()) + "\n" + '{"name": "x"', "tools, line 2", "no JSON"),
        (block(tool(), tool(None)), "tool 1", "no name"),  # type: ignore[arg-type]  # as found
        (block(tool(), "words"), "tool 1", "no object"),
        (block(tool(parameters="clay")), "tool 0", "parameters are no object"),
        (block(tool(parameters=[{"type": "string"}])), "tool 0", "parameter has no name"),
        (block(tool(parameters={"type": "object", "properties": {"a": {"$ref": "#/x"}}})), "tool 0",
         "no valid JSON Schema"),
        ("", "tools", "no tool"),
        ("[" * 5000, "tools, line 1", "no JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_its_place(text: str, place: str, reason: str) -> None:
    with pytest.raises(Unparsed, match=reason) as caught:
        read_tools(text)
    assert caught.value.place == place


@pytest.mark.parametrize(
    ("name", "description", "changes"),
    [
        ("KilnScheduler", "Books a kiln.", True),
        ("ScheduleFetcher", "Fetches the plan.", False),
        ("send_message", "", True),
        ("GlazeFinder", "Looks up glazes.", False),
        ("Bookshop", "Lists what is sold.", False),
        ("PhotoBooth", "Simulates uploading a picture.", True),
        ("AddressBook", "Shows addresses.", True),  # in doubt it changes
    ],
)
def test_whether_a_tool_changes_something_is_told_by_its_words(
    name: str, description: str, *, changes: bool
) -> None:
    found = read_tools(block(tool(name, description=description)))
    assert found.tools[0].changes_state is changes
