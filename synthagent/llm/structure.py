"""What a structured answer must look like, for the server and for us.

The server gets a constraint: a JSON Schema of those keywords only that servers turn into guided
decoding (vLLM's grammars, the strict mode of others). An answer is then checked against everything
that was asked for, so a server that ignores the constraint, or a keyword that it does not know, is
noticed here.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

import orjson
from pydantic import BaseModel, JsonValue, ValidationError

from synthagent.errors import InvalidInput
from synthagent.worlds.arguments import SchemaError, compile_schema

V = TypeVar("V")
_PROBLEMS_SHOWN = 6
_PROBLEM_LENGTH = 300

# Guided decoding refuses or ignores the others. The answer is checked against them afterwards.
_KEPT = frozenset({
    "type", "properties", "required", "additionalProperties", "items", "prefixItems", "enum",
    "const", "anyOf", "$ref", "$defs", "description", "title", "minItems", "maxItems", "minimum",
    "maximum", "minLength", "maxLength",
})  # fmt: skip
_LENGTHS = ("minLength", "maxLength")
_LONGEST_BOUND = 1000
"""Characters. A bound on a text brings a weak model to an end; it also costs vLLM seconds, once for
each schema, and the more the longer it is. Longer bounds are checked afterwards only."""
_SHAPES = frozenset({"type", "properties", "enum", "const", "$ref"})
"""Beside one of these, guided decoding takes alternatives for the whole; so they are left out."""

_MAPS = ("properties", "$defs")
_LISTS = ("anyOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties")


class UnfitAnswerError(ValueError):
    """An answer that does not fit its structure; `problems` say where and why."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Structure(Generic[V]):
    """The structure of one kind of answer: a pydantic model, or a JSON Schema."""

    name: str
    """Of the schema on the wire: the model's class, or empty."""

    def __init__(self, schema: type[BaseModel] | dict[str, JsonValue]) -> None:
        """Raises InvalidInput where it is no JSON Schema that can be checked."""
        self._model = None if isinstance(schema, dict) else schema
        self.name = "" if isinstance(schema, dict) else schema.__name__
        whole = schema if isinstance(schema, dict) else schema.model_json_schema()
        constraint = _constrain(whole)
        if self._model is not None:
            _close(constraint)
        self.constraint = constraint
        self.identity = orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)
        """Canonical JSON of the whole schema: what is part of a stored answer's key."""
        try:
            self._validator = compile_schema(schema) if isinstance(schema, dict) else None
        except SchemaError as error:
            raise InvalidInput(f"The schema of an answer {error}.", field="schema") from error

    def response_format(self, name: str) -> dict[str, Any]:
        """The `response_format` of a request; `name` is for a schema that has none."""
        strict = _is_closed(self.constraint)
        described = {"name": self.name or name, "schema": self.constraint, "strict": strict}
        return {"type": "json_schema", "json_schema": described}

    def parse(self, text: str) -> V:
        """The value that the text holds. Raises UnfitAnswerError."""
        document = _unfence(text)
        if self._model is not None:
            try:
                return cast("V", self._model.model_validate_json(document, strict=True))
            except ValidationError as error:
                raise UnfitAnswerError(_problems(error)) from None
        try:
            value = orjson.loads(document)
        except orjson.JSONDecodeError as error:
            raise UnfitAnswerError([f"it is no JSON: {error}"]) from None
        assert self._validator is not None  # noqa: S101 - one of model and validator is there
        found = [
            f"{'/'.join(map(str, error.instance_path)) or 'the whole'}: {error.message}"
            for error in self._validator.iter_errors(value)
        ]
        if found:
            raise UnfitAnswerError(_shorten(found))
        return cast("V", value)


def _problems(error: ValidationError) -> list[str]:
    return _shorten(
        f"{'.'.join(map(str, item['loc'])) or 'the whole'}: {item['msg']}"
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    )


def _shorten(problems: Any) -> list[str]:
    return [
        problem if len(problem) <= _PROBLEM_LENGTH else problem[: _PROBLEM_LENGTH - 1] + "…"
        for problem, _ in zip(problems, range(_PROBLEMS_SHOWN), strict=False)
    ]


def _unfence(text: str) -> str:
    """The text without the Markdown fence that models without guided decoding like to add."""
    stripped = text.strip()
    if not (stripped.startswith("```") and stripped.endswith("```") and "\n" in stripped):
        return stripped
    return stripped.split("\n", 1)[1].removesuffix("```").strip()


def _constrain(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema  # true and false are schemas, too
    kept: dict[str, Any] = {}
    shaped = _SHAPES & schema.keys()
    for keyword, value in schema.items():
        if keyword not in _KEPT or (keyword == "anyOf" and shaped):
            continue
        if keyword in _LENGTHS and not (isinstance(value, int) and value <= _LONGEST_BOUND):
            continue
        if keyword in _MAPS and isinstance(value, dict):
            kept[keyword] = {name: _constrain(part) for name, part in value.items()}
        elif keyword in _LISTS and isinstance(value, list):
            kept[keyword] = [_constrain(part) for part in value]
        else:
            kept[keyword] = _constrain(value) if keyword in _SCHEMAS else value
    if "oneOf" in schema and not (shaped or "anyOf" in kept):
        kept["anyOf"] = [_constrain(part) for part in schema["oneOf"]]
    return kept


def _parts(schema: Any) -> list[dict[str, Any]]:
    """A schema's object and every one in it."""
    if not isinstance(schema, dict):
        return []
    children = [part for key in _MAPS for part in schema.get(key, {}).values()]
    children += [part for key in _LISTS for part in schema.get(key, [])]
    children += [schema[key] for key in _SCHEMAS if key in schema]
    return [schema, *(found for child in children for found in _parts(child))]


def _close(schema: dict[str, Any]) -> None:
    """Every property required and no other allowed, as strict modes ask. In place."""
    for part in _parts(schema):
        if "properties" in part:
            part["required"] = list(part["properties"])
            part["additionalProperties"] = False


def _is_closed(schema: dict[str, Any]) -> bool:
    return all(
        part.get("additionalProperties") is False
        and sorted(part.get("required", ())) == sorted(part.get("properties", ()))
        for part in _parts(schema)
        if "properties" in part or part.get("type") == "object"
    )
