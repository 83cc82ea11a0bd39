"""JSON Schemas as language models write them, made into ones that validate.

What is certain is put right: names of Python types, `required` on a property, a list of parameters,
properties without their object. What remains invalid is refused (arguments) or told to the model as
text (results), and noted either way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from pydantic import JsonValue

from synthagent.interchange.findings import Unparsed
from synthagent.worlds.arguments import ArgumentSchema, SchemaError, compile_schema

_TYPES: Mapping[str, str | None] = {
    "str": "string", "text": "string", "date": "string", "datetime": "string", "url": "string",
    "int": "integer", "long": "integer", "float": "number", "double": "number",
    "decimal": "number", "numeric": "number", "bool": "boolean", "list": "array", "tuple": "array",
    "set": "array", "dict": "object", "map": "object", "json": "object", "none": "null",
    "any": None,
}  # fmt: skip
_KNOWN = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_NO_ARGUMENTS: Mapping[str, JsonValue] = {"type": "object", "properties": {}}
_SCHEMA_WORDS = frozenset({"properties", "required", "additionalProperties", "$ref", "anyOf"})


def clean_inputs(value: JsonValue, place: str, notes: list[str]) -> dict[str, JsonValue]:
    """The schema of a tool's arguments. Raises Unparsed where it cannot be made valid."""
    if value in (None, {}, []):
        notes.append("it states no parameters; it takes no arguments")
        return dict(_NO_ARGUMENTS)
    if isinstance(value, list):
        value = _from_list(value, place)
        notes.append("its parameters are a list; they are read as properties")
    if not isinstance(value, dict):
        raise Unparsed(place, f"its parameters are no object: {value!r}")
    schema = _as_object(value, notes)
    return _validated(schema, ArgumentSchema, place, "parameters", notes)


def clean_outputs(value: JsonValue, notes: list[str]) -> tuple[dict[str, JsonValue] | None, str]:
    """The schema of a tool's result, or None, and what else there is to tell about the result."""
    if value is None or value in ({}, [], ""):
        return None, ""
    if not isinstance(value, dict):
        notes.append("its outputs are no schema; they are told to the model as text")
        return None, f"Result: {value if isinstance(value, str) else json.dumps(value)}"
    try:
        return _validated(_as_object(value, notes), compile_schema, "", "outputs", notes), ""
    except Unparsed as error:
        notes.append(f"its outputs are told to the model as text: {error.reason}")
        return None, f"Result: {json.dumps(value, ensure_ascii=False)}"


def _validated(
    schema: dict[str, JsonValue],
    compiler: Callable[[Mapping[str, JsonValue]], object],
    place: str,
    what: str,
    notes: list[str],
) -> dict[str, JsonValue]:
    try:
        compiler(schema)
    except SchemaError:
        repaired = _repair(schema)
        assert isinstance(repaired, dict)  # noqa: S101 - a dict is repaired into a dict
        try:
            compiler(repaired)
        except SchemaError as error:
            raise Unparsed(place, f"its {what} are no valid JSON Schema: {error}") from error
        notes.append(f"its {what} use types that JSON Schema does not know; they are translated")
        return repaired
    return schema


def _from_list(parameters: list[JsonValue], place: str) -> dict[str, JsonValue]:
    properties: dict[str, JsonValue] = {}
    required: list[JsonValue] = []
    for parameter in parameters:
        if not isinstance(parameter, dict) or not isinstance(parameter.get("name"), str):
            raise Unparsed(place, f"a parameter has no name: {parameter!r}")
        name = str(parameter["name"])
        if name in properties:
            raise Unparsed(place, f"two parameters are named {name!r}")
        properties[name] = {k: v for k, v in parameter.items() if k not in ("name", "required")}
        if parameter.get("required") is True:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _as_object(value: dict[str, JsonValue], notes: list[str]) -> dict[str, JsonValue]:
    """The schema as one of an object with properties."""
    kind = value.get("type")
    if isinstance(kind, str) or _SCHEMA_WORDS & value.keys():
        if kind is None and "properties" in value:
            return {"type": "object", **value}
        return value
    if all(isinstance(part, dict) for part in value.values()):
        notes.append("its properties stand without an object; they are read as properties")
        return {"type": "object", "properties": value}
    return value


def _repair(node: JsonValue, *, names: bool = False) -> JsonValue:
    """The schema in JSON Schema's words; `names`: the keys are names of properties."""
    if isinstance(node, list):
        return [_repair(part) for part in node]
    if not isinstance(node, dict):
        return node
    if names:
        return {name: _as_schema(part) for name, part in node.items()}
    result: dict[str, JsonValue] = {}
    for key, part in node.items():
        if key == "type":
            kind = _type(part)
            if kind is not None:
                result[key] = kind
        elif key == "required" and not isinstance(part, list):
            continue  # as drafts before 4 marked a property
        elif key == "enum" and (not isinstance(part, list) or not part):
            continue
        elif key in ("enum", "default", "const", "examples", "example"):
            result[key] = part
        elif key == "properties" and isinstance(part, list):
            result[key] = {str(name): {} for name in part}
        elif key in ("items", "additionalProperties") and not isinstance(part, list):
            result[key] = _as_schema(part)
        else:
            result[key] = _repair(part, names=key in ("properties", "$defs", "definitions"))
    return result


def _as_schema(part: JsonValue) -> JsonValue:
    """A property that is told by its type alone, or by a description."""
    if isinstance(part, dict):
        return _repair(part)
    if isinstance(part, str):
        kind = _type(part) if part.casefold() in _KNOWN | _TYPES.keys() else None
        return {"type": kind} if kind else {"description": part}
    return part if isinstance(part, bool) else {}


def _type(value: JsonValue) -> JsonValue:
    if isinstance(value, list):
        kinds: list[JsonValue] = []
        for part in value:
            kind = _type(part)
            if kind is not None and kind not in kinds:
                kinds.append(kind)
        return kinds or None
    if not isinstance(value, str):
        return None
    name = value.strip().casefold().partition("[")[0]
    return name if name in _KNOWN else _TYPES.get(name)
