"""Every rule of the tool check, alone and together."""

from __future__ import annotations

from typing import Any

import pytest

from services.task_synthesis.teacher import tool_check
from services.task_synthesis.teacher.products import Replaceability, ToolDesign, ToolSet
from services.task_synthesis.teacher.repair import Broken
from services.task_synthesis.teacher.tool_check import CheckedTools
from synthagent.worlds.arguments import compile_schema
from tests.services.task_synthesis.teacher.products import distractors, text_schema, tool, tool_set


def design(name: str = "RadioLog", category: str = "radio", **changes: Any) -> ToolDesign:
    made = tool(name, category, text_schema(boat="Name"), text_schema(entry="Last entry"))
    return ToolDesign.model_validate({**made, **changes})


def outputs(tools: tuple[ToolDesign, ...]) -> dict[str, Any]:
    properties = tools[0].output_schema["properties"]
    assert isinstance(properties, dict)
    return properties


def checked(**changes: Any) -> CheckedTools:
    return tool_check.check(ToolSet.model_validate({**tool_set(), **changes}))


def restricted(tool: str, forbidden_use: str) -> dict[str, str]:
    return {"tool": tool, "forbidden_use": forbidden_use, "reason": "The sling would tear."}


def test_a_good_tool_set_keeps_its_tools_and_gets_one_restriction() -> None:
    found = checked()
    assert [each.name for each in found.tools] == [each["name"] for each in tool_set()["tools"]]
    assert found.restriction_text == (
        "Tool CraneBooking must NOT be used to reserve a slot before the yard has closed its open "
        "jobs."
    )
    assert found.reason
    assert len(found.workflow) == 5


@pytest.mark.parametrize(
    ("written", "name"),
    [("Radio Log!", "Radio_Log"), (" radio/log ", "radio_log"), ("radio-log.2", "radio-log.2")],
)
def test_names_are_made_plain(written: str, name: str) -> None:
    assert tool_check.name_plainly([design(written)])[0].name == name


@pytest.mark.parametrize("written", ["42", "船", "---"])
def test_a_name_of_which_nothing_is_left_is_refused(written: str) -> None:
    with pytest.raises(Broken, match="does not begin with a letter"):
        tool_check.name_plainly([design(written)])


def test_names_that_are_the_same_words_are_refused() -> None:
    with pytest.raises(Broken, match="two tools have the name") as broken:
        tool_check.differ_in_name([design("RadioLog"), design("radio_log", "diary")])
    assert broken.value.step == "tool_check"


def test_categories_must_differ() -> None:
    with pytest.raises(Broken, match="two tools have the category"):
        tool_check.differ_in_category([design("A"), design("B", "Radio")])


@pytest.mark.parametrize(
    ("written", "fields"),
    [
        ({}, {"status"}),
        ({"type": "object"}, {"status"}),
        ({"type": "object", "properties": {}}, {"status"}),
        ({"type": "array", "items": {"type": "string"}}, {"result"}),
        ({"type": "string"}, {"result"}),
        ({"properties": {"depth": {"type": "number"}}}, {"depth"}),
    ],
)
def test_a_result_becomes_an_object(written: dict[str, Any], fields: set[str]) -> None:
    shaped = tool_check.shape_outputs([design(output_schema=written)])
    assert set(outputs(shaped)) == fields
    assert shaped[0].output_schema["type"] == "object"


@pytest.mark.parametrize(
    ("name", "definition", "becomes"),
    [
        ("harbour_map", {"type": "string"}, "harbour_map_id"),
        ("sonarImage", {"type": "string"}, "sonar_image_id"),
        ("chart", {"type": "string", "contentEncoding": "base64"}, "chart_id"),
        ("scan", {"type": "string", "contentMediaType": "image/png"}, "scan_id"),
        ("report", {"type": "string", "description": "Base64 of the pages"}, "report_id"),
        ("payload", {"type": "string", "format": "binary"}, "payload_id"),
        ("video_title", {"type": "string"}, "video_title"),
        ("file_count", {"type": "integer"}, "file_count"),
        ("notes", {"type": "string", "contentMediaType": "text/plain"}, "notes"),
        ("image", True, "image"),
    ],
)
def test_what_is_no_text_becomes_its_identifier(name: str, definition: Any, becomes: str) -> None:
    schema = {"type": "object", "properties": {name: definition}, "required": [name]}
    found = tool_check.refer_to_media([design(output_schema=schema)])
    assert list(outputs(found)) == [becomes]
    assert found[0].output_schema["required"] == [becomes]
    if becomes != name:
        assert outputs(found)[becomes]["type"] == "string"
        compile_schema(found[0].output_schema)


def test_at_most_two_fields_are_returned_the_required_ones_first() -> None:
    schema = text_schema(one="1", two="2", three="3", four="4")
    schema["required"] = ["four", "one"]
    found = tool_check.return_little([design(output_schema=schema)])
    assert list(outputs(found)) == ["one", "four"]
    assert found[0].output_schema["required"] == ["four", "one"]
    loose = {**schema, "required": ["three"]}
    found = tool_check.return_little([design(output_schema=loose)])
    assert list(outputs(found)) == ["one", "three"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "object", "properties": {"a": {"type": "sting"}}},
        {"type": "object", "properties": {"a": {"$ref": "https://example.org/a.json"}}},
        {"type": "object", "properties": {"a": {"pattern": "("}}},
        {"type": "object", "properties": []},
        {"type": "object", "required": "boat"},
    ],
)
def test_schemas_are_those_of_2020_12(schema: dict[str, Any]) -> None:
    with pytest.raises(Broken, match="the input_schema of tool RadioLog"):
        tool_check.compile_schemas([design(input_schema=schema)])


def test_the_restriction_names_a_tool_however_it_is_spelled() -> None:
    found = checked(restriction=restricted("crane_booking", "lift a boat with its mast up"))
    assert found.restricted == "CraneBooking"
    with pytest.raises(Broken, match="which is none of the tools"):
        checked(restriction=restricted("FuelPump", "fill a tank"))


@pytest.mark.parametrize(
    ("written", "use"),
    [
        ("to lift two boats.", "lift two boats"),
        ("Tool CraneBooking must NOT be used to lift two boats.", "lift two boats"),
        ("lift two boats", "lift two boats"),
    ],
)
def test_the_restriction_is_one_phrase(written: str, use: str) -> None:
    found = checked(restriction=restricted("CraneBooking", written))
    assert found.restriction_text == f"Tool CraneBooking must NOT be used to {use}."


@pytest.mark.parametrize(
    "written", ["...", "lift boats. It must not be used to lift cars", "lift boats. Or lift cars"]
)
def test_there_is_exactly_one_restriction(written: str) -> None:
    with pytest.raises(Broken, match="restriction"):
        checked(restriction=restricted("CraneBooking", written))


@pytest.mark.parametrize(
    "goal",
    ["Reserve the lift at 7", "Ask for 'Havørn'", "Write to yard@example.org", "Look at {{boat}}"],
)
def test_a_workflow_holds_no_parameters(goal: str) -> None:
    workflow = [*tool_set()["workflow"][:4], goal]
    with pytest.raises(Broken, match="holds a value") as broken:
        checked(workflow=workflow)
    assert broken.value.step == "tool_set"


def test_apostrophes_are_no_quotations_and_goals_differ() -> None:
    workflow = [*tool_set()["workflow"][:4], "Tell the owner what the yard's crew can't do"]
    assert checked(workflow=workflow).workflow[4].endswith("can't do")
    with pytest.raises(Broken, match="the same"):
        checked(workflow=[*workflow[:4], workflow[0].upper()])


def answers(*replaceable: str) -> list[Replaceability]:
    return [Replaceability(tool=name, replaceable=True) for name in replaceable]


def test_what_a_model_could_do_itself_goes() -> None:
    kept, dropped = tool_check.without_replaceable(
        checked(), [*answers("poetry writer"), Replaceability(tool="Ghost", replaceable=True)]
    )
    assert dropped == ("PoetryWriter",)
    assert [each.name for each in kept.tools] == ["BerthPlanner", "CraneBooking", "RepairLog"]


def test_the_restricted_tool_and_two_tools_must_stay() -> None:
    with pytest.raises(Broken, match="the restricted tool CraneBooking"):
        tool_check.without_replaceable(checked(), answers("CraneBooking"))
    with pytest.raises(Broken, match="invent tools"):
        tool_check.without_replaceable(
            checked(), answers("BerthPlanner", "RepairLog", "PoetryWriter")
        )


def test_distractors_join_under_the_same_rules_at_no_telling_place() -> None:
    extra = [ToolDesign.model_validate(each) for each in distractors()["tools"]]
    found = tool_check.with_distractors(checked(), extra)
    names = [each.name for each in found.tools]
    assert names == sorted(names, key=str.casefold)
    assert "TideTables" in names
    twin = design("AnotherCrane", "crane")
    with pytest.raises(Broken, match="category"):
        tool_check.with_distractors(checked(), [twin])
    photo = design("Webcam", "cameras", output_schema=text_schema(photo="What it sees"))
    found = tool_check.with_distractors(checked(), [photo])
    webcam = next(each for each in found.tools if each.name == "Webcam")
    assert outputs((webcam,)).keys() == {"photo_id"}
