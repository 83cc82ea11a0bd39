from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, JsonValue

from synthagent.llm.structure import Structure, UnfitAnswerError


class Step(BaseModel):
    tool: Annotated[str, Field(pattern="^[a-z_]+$", max_length=20)]
    note: str = ""


class Plan(BaseModel):
    steps: Annotated[list[Step], Field(min_length=1, max_length=3)]
    mood: Literal["calm", "keen"] | None = None
    share: Annotated[float, Field(ge=0, le=1)] = 0.5


def test_a_models_constraint_is_closed_and_of_known_keywords() -> None:
    form = Structure[Plan](Plan).response_format("plan")
    assert form["type"] == "json_schema"
    described = form["json_schema"]
    assert (described["name"], described["strict"]) == ("Plan", True)
    step = described["schema"]["$defs"]["Step"]
    assert step["required"] == ["tool", "note"]
    assert step["additionalProperties"] is False
    assert described["schema"]["required"] == ["steps", "mood", "share"]
    assert step["properties"]["tool"].keys() <= {"title", "type", "minLength", "maxLength"}
    assert "default" not in str(described)
    assert described["schema"]["properties"]["steps"]["maxItems"] == 3


def test_a_short_bound_on_a_text_ends_a_weak_model_and_a_long_one_costs_too_much() -> None:
    text: dict[str, JsonValue] = {"type": "string", "maxLength": 400, "minLength": 1}
    assert Structure[JsonValue](text).constraint == text
    long = Structure[JsonValue]({"type": "string", "maxLength": 100_000})
    assert long.constraint == {"type": "string"}


def test_the_whole_schema_is_checked_nevertheless() -> None:
    with pytest.raises(UnfitAnswerError, match=r"steps\.0\.tool"):
        Structure[Plan](Plan).parse('{"steps": [{"tool": "Look up"}]}')


def test_a_json_schema_stays_as_open_as_it_is() -> None:
    schema: dict[str, JsonValue] = {
        "type": "object",
        "properties": {"id": {"type": "string"}, "more": {"type": "object"}},
        "required": ["id"],
        "oneOf": [{"required": ["id"]}],
        "patternProperties": {"^x": {}},
    }
    form: dict[str, Any] = Structure(schema).response_format("entry")["json_schema"]
    assert (form["name"], form["strict"]) == ("entry", False)
    assert form["schema"]["required"] == ["id"]
    assert "additionalProperties" not in form["schema"]
    assert "patternProperties" not in form["schema"]
    assert "anyOf" not in form["schema"], "conditions on an object are no alternatives to it"
    choice: dict[str, JsonValue] = {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    assert Structure(choice).constraint == {"anyOf": [{"type": "string"}, {"type": "integer"}]}


@pytest.mark.parametrize(
    "text",
    [
        "", "nothing", "{", "[]", '{"n": "5"}', '{"n": 5.5}', '{"n": NaN}', '{"n": 5} {"n": 5}',
        "[" * 100_000, '{"n": 5, "m": 1}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["model", "schema"])
def test_what_does_not_fit_is_refused_with_reasons(text: str, kind: str) -> None:
    class Number(BaseModel, extra="forbid"):
        n: int

    schema: dict[str, JsonValue] = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    structure: Structure[Any] = Structure(Number if kind == "model" else schema)
    assert structure.parse('{"n": 5}') in (Number(n=5), {"n": 5})
    with pytest.raises(UnfitAnswerError) as caught:
        structure.parse(text)
    assert 1 <= len(caught.value.problems) <= 6
    assert all(problem and len(problem) <= 300 for problem in caught.value.problems)


def test_a_long_list_of_problems_is_shortened() -> None:
    schema: dict[str, JsonValue] = {"type": "array", "items": {"type": "integer"}}
    with pytest.raises(UnfitAnswerError) as caught:
        Structure[Any](schema).parse("[" + ",".join(f'"{"x" * 1000}"' for _ in range(50)) + "]")
    assert len(caught.value.problems) == 6
    assert len(str(caught.value)) < 2000


def test_the_identity_tells_schemas_apart() -> None:
    assert Structure[Any](Plan).identity != Structure[Any](Step).identity
    one: dict[str, JsonValue] = {"type": "object", "minProperties": 1}
    other: dict[str, JsonValue] = {"minProperties": 1, "type": "object"}
    assert Structure[Any](one).identity == Structure[Any](other).identity
    assert Structure[Any](one).identity != Structure[Any]({"type": "object"}).identity
