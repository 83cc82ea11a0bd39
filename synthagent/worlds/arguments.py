"""Arguments of tool calls: from JSON text to values that a statement can bind.

Owns the order of refusal (size, JSON, schema) and the words in which a small model is told what to
correct: always the first error only, with the path and a code. Schemas are JSON Schema 2020-12,
refer to nothing outside themselves, and are matched in linear time.
"""

from __future__ import annotations

from collections.abc import Mapping

import jsonschema_rs
import orjson
from pydantic import JsonValue

from synthagent.worlds.sandbox import MAX_VALUE_BYTES

MAX_ARGUMENT_BYTES = 64 * 1024
MAX_ARGUMENT_DEPTH = 200  # orjson writes 254 levels, and reads more
MAX_SCHEMA_BYTES = 32 * 1024
MAX_SCHEMA_NODES = 5000  # counted with every reference expanded
MAX_MESSAGE = 240
_INT64 = 1 << 63
_REGEX = jsonschema_rs.RegexOptions(size_limit=1 << 20, dfa_size_limit=1 << 20)
_REFUSED = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$schema")

Bound = str | int | float | None


class SchemaError(ValueError):
    """A schema that is refused, with the reason."""


class ArgumentError(ValueError):
    """Arguments that are refused: a code of the engine and a sentence for the agent."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _resolve(root: JsonValue, reference: JsonValue) -> JsonValue:
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise SchemaError(f"$ref {reference!r}: only references inside the schema are supported")
    node = root
    for part in reference.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or key not in node:
            raise SchemaError(f"$ref {reference!r} points to nothing in the schema")
        node = node[key]
    return node


class _Expansion:
    """Counts the nodes of a schema with references expanded, and finds references to themselves.

    Validation time is bounded by that number, not by the length of the schema's text.
    """

    def __init__(self, root: JsonValue) -> None:
        self._root = root
        self._nodes = 0
        self._open: set[str] = set()

    def visit(self, node: JsonValue) -> None:
        self._nodes += 1
        if self._nodes > MAX_SCHEMA_NODES:
            raise SchemaError(f"has more than {MAX_SCHEMA_NODES} nodes with references expanded")
        if isinstance(node, list):
            for item in node:
                self.visit(item)
        elif isinstance(node, dict):
            for key in _REFUSED[:-1]:
                if isinstance(node.get(key), str):
                    raise SchemaError(f"{key} is not supported")
            for value in node.values():
                self.visit(value)
            if isinstance(node.get("$ref"), str):
                self._follow(str(node["$ref"]))

    def _follow(self, reference: str) -> None:
        target = _resolve(self._root, reference)
        if reference in self._open:
            raise SchemaError(f"$ref {reference!r} contains itself")
        self._open.add(reference)
        self.visit(target)
        self._open.discard(reference)


def compile_schema(schema: Mapping[str, JsonValue]) -> jsonschema_rs.Validator:
    """A validator for the schema. Raises SchemaError with the reason where it is refused."""
    content = dict(schema)
    try:
        if len(orjson.dumps(content)) > MAX_SCHEMA_BYTES:
            raise SchemaError(f"is longer than {MAX_SCHEMA_BYTES} bytes")
        _Expansion(content).visit(content)
        return jsonschema_rs.Draft202012Validator(
            content,
            offline=True,
            pattern_options=_REGEX,
            validate_formats=False,
        )
    except SchemaError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        # jsonschema_rs has several exceptions for a bad schema; all of them are ValueErrors
        raise SchemaError(_shorten(str(error).splitlines()[0])) from error


class ArgumentSchema:
    """The compiled input schema of one tool. Immutable."""

    __slots__ = ("_defaults", "_integers", "_validator", "names")

    def __init__(self, schema: Mapping[str, JsonValue]) -> None:
        if schema.get("type") != "object":
            raise SchemaError('must have "type": "object"')
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise SchemaError('"properties" must be an object')
        self._validator = compile_schema(schema)
        self.names = tuple(properties)
        self._defaults: dict[str, JsonValue] = {}
        self._integers = set()
        for name, definition in properties.items():
            if isinstance(definition, dict):
                if "default" in definition:
                    self._defaults[name] = definition["default"]
                if definition.get("type") == "integer":
                    self._integers.add(name)

    def check(self, arguments: dict[str, JsonValue]) -> dict[str, Bound]:
        """One value to bind per property; absent ones take their default, or null.

        Raises ArgumentError.
        """
        if not self._validator.is_valid(arguments):
            raise ArgumentError("invalid_arguments", self._first_error(arguments))
        return {name: self._bind(name, arguments) for name in self.names}

    def _bind(self, name: str, arguments: dict[str, JsonValue]) -> Bound:
        value = arguments[name] if name in arguments else self._defaults.get(name)
        if isinstance(value, dict | list):
            value = orjson.dumps(value).decode()
        elif isinstance(value, float) and name in self._integers:
            value = int(value)
        if isinstance(value, str):
            if len(value) * 4 > MAX_VALUE_BYTES and len(value.encode()) > MAX_VALUE_BYTES:
                raise ArgumentError(
                    "arguments_too_large", f"{name} is longer than {MAX_VALUE_BYTES} bytes."
                )
        elif isinstance(value, int) and not -_INT64 <= value < _INT64:
            raise ArgumentError("invalid_arguments", f"{name}: the number is too large")
        return value

    def _first_error(self, arguments: dict[str, JsonValue]) -> str:
        """The first error in order of path, so that it is the same in every process."""
        errors = sorted(
            ("/".join(map(str, error.instance_path)), _sentence(error))
            for error in self._validator.iter_errors(arguments)
        )
        path, message = errors[0]
        return _shorten(f"{path}: {message}" if path else message)


def parse(text: str) -> dict[str, JsonValue]:
    """The arguments as an object. Raises ArgumentError."""
    may_be_long = len(text) * 4 > MAX_ARGUMENT_BYTES  # UTF-8 has at most 4 bytes a character
    if may_be_long and len(text.encode(errors="replace")) > MAX_ARGUMENT_BYTES:
        raise ArgumentError(
            "arguments_too_large", f"The arguments are longer than {MAX_ARGUMENT_BYTES} bytes."
        )
    try:
        value: JsonValue = orjson.loads(text)
    except (orjson.JSONDecodeError, RecursionError) as error:
        reason = str(error).split(":", maxsplit=1)[0]
        raise ArgumentError(
            "malformed_arguments", f"The arguments are not valid JSON: {reason}."
        ) from error
    if not isinstance(value, dict):
        raise ArgumentError("malformed_arguments", "The arguments must be one JSON object.")
    if len(text) > 2 * MAX_ARGUMENT_DEPTH:  # every level opens and closes
        _check_depth(value)
    return value


def _check_depth(value: JsonValue) -> None:
    level = [value]
    for _ in range(MAX_ARGUMENT_DEPTH):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        level = [
            item
            for container in containers
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    raise ArgumentError(
        "malformed_arguments", f"The arguments are nested deeper than {MAX_ARGUMENT_DEPTH} levels."
    )


def _sentence(error: jsonschema_rs.ValidationError) -> str:
    """What is wrong, with every allowed value where there is a list of them."""
    if error.kind.name == "enum":
        options = ", ".join(orjson.dumps(option).decode() for option in error.kind.value)
        return f"must be one of {options}"
    return error.message


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."
