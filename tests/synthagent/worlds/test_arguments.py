import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthagent.worlds.arguments import ArgumentError, ArgumentSchema, SchemaError, parse


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def doubling(levels: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]}
        for n in range(levels)
    }
    return schema(a={"$ref": "#/$defs/d0"}) | {"$defs": {**definitions, f"d{levels}": True}}


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        ({}, '"type": "object"'),
        ({"type": "array"}, '"type": "object"'),
        ({"type": "object", "properties": []}, "properties"),
        (schema(a={"type": "nothing"}), "nothing"),
        (schema(a={"$ref": "https://example.org/a.json"}), "inside the schema"),
        (schema(a={"$ref": "file:///etc/passwd"}), "inside the schema"),
        (schema(a={"$ref": "#/$defs/missing"}), "points to nothing"),
        (schema(a={"$ref": "#"}), "contains itself"),
        (schema(a={"$ref": "#/properties/a"}), "contains itself"),
        (doubling(30), "more than 5000 nodes"),
        (schema(a={"$dynamicRef": "#x"}), "$dynamicRef"),
        (schema(a={"pattern": "("}), ""),
        (schema(a={"pattern": "(?=a)b"}), ""),
        (schema(a={"pattern": "((a{1,200}){1,200}){1,200}"}), ""),
        (schema(a={"description": "x" * 40_000}), "longer than"),
    ],
)
def test_refused_schemas(refused: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaError) as caught:
        ArgumentSchema(refused)
    assert says in str(caught.value)


def test_references_inside_the_schema_work() -> None:
    made = ArgumentSchema(
        schema(a={"$ref": "#/$defs/day"}) | {"$defs": {"day": {"enum": ["monday"]}}}
    )
    assert made.check({"a": "monday"}) == {"a": "monday"}
    with pytest.raises(ArgumentError, match='a: must be one of "monday"'):
        made.check({"a": "friday"})


def test_a_hostile_pattern_takes_linear_time() -> None:
    made = ArgumentSchema(schema(a={"type": "string", "pattern": "^(a+)+$"}))
    begin = time.perf_counter()
    with pytest.raises(ArgumentError, match="a: "):
        made.check({"a": "a" * 8000 + "!"})
    assert time.perf_counter() - begin < 1.0


def test_the_first_error_is_the_same_every_time_and_short() -> None:
    made = ArgumentSchema(
        schema(b={"type": "integer"}, a={"type": "integer"}, c={"type": "integer"})
    )
    messages = set()
    hostile: list[dict[str, Any]] = [
        {"c": "x" * 5000, "a": "x", "b": "y"},
        {"a": "x", "b": "y", "c": ""},
    ]
    for arguments in hostile:
        with pytest.raises(ArgumentError) as caught:
            made.check(arguments)
        messages.add(str(caught.value))
    assert messages == {'a: "x" is not of type "integer"'}
    with pytest.raises(ArgumentError) as caught:
        made.check({"c": "x" * 5000})
    assert len(str(caught.value)) <= 240


@given(text=st.text(max_size=40))
def test_any_text_is_an_object_or_an_error(text: str) -> None:
    try:
        code = "" if isinstance(parse(text), dict) else "no object"
    except ArgumentError as error:
        code = error.code
    assert code in ("", "malformed_arguments")


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=4,
    )
)
def test_any_value_is_bound_or_an_error(value: Any) -> None:
    made = ArgumentSchema(schema(a={}))
    try:
        bound = made.check(parse(json.dumps({"a": value})))["a"]
    except ArgumentError:
        return
    assert bound is None or isinstance(bound, str | int | float)
    assert not isinstance(bound, int) or -(2**63) <= bound < 2**63
