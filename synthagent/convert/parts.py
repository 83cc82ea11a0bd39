"""What every conversion needs: enums by name, JSON text, required parts, errors with a path."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

import orjson
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import JsonValue, ValidationError

from synthagent.errors import InvalidInput

if TYPE_CHECKING:
    # The type of every generated enum; the run-time class has another name and no parameter.
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
N = TypeVar("N", bound=int)
M = TypeVar("M", bound=Message)


def message_of(value: JsonValue, kind: type[M]) -> M:
    """The message that a JSON value holds, in the contract's JSON form. Raises InvalidInput."""
    try:
        orjson.dumps(value)  # a lone surrogate in a name breaks the parser below
        if not isinstance(value, dict):
            raise ParseError("it is no JSON object.")
        return ParseDict(value, kind())
    except (ParseError, TypeError) as error:
        told = str(error).encode("utf-8", "replace").decode()
        raise InvalidInput(f"it is no {kind.DESCRIPTOR.name}: {told}") from error


class EnumTable(Generic[E, N]):
    """An enum of the contract beside its value: PREFIX_NAME is `Kind.NAME`."""

    def __init__(self, kind: type[E], numbers: _EnumTypeWrapper[N], prefix: str) -> None:
        """`numbers` is the generated enum wrapper."""
        self._prefix = prefix
        self._unspecified = numbers.Value(f"{prefix}_UNSPECIFIED")
        self._by_value: dict[E, N] = {
            member: numbers.Value(f"{prefix}_{member.name}") for member in kind
        }
        self._by_number: dict[int, E] = {number: e for e, number in self._by_value.items()}
        extra = set(numbers.values()) - set(self._by_number) - {self._unspecified}
        if extra:
            raise TypeError(f"{kind.__name__} lacks the numbers {sorted(extra)} of {prefix}")

    def to_number(self, value: E | None) -> N:
        """The number on the wire; unspecified for None."""
        return self._unspecified if value is None else self._by_value[value]

    def from_number(self, number: int, path: str) -> E:
        """The value of a number that must be given and known. Raises InvalidInput."""
        value = self._by_number.get(number)
        if value is None:
            names = ", ".join(f"{self._prefix}_{member.name}" for member in self._by_value)
            given = "unspecified" if number == 0 else f"the unknown number {number}"
            raise InvalidInput(f"{path} is {given}; give one of {names}.", field=path)
        return value

    def from_optional(self, number: int, path: str) -> E | None:
        """The value of a number, None for unspecified. Raises InvalidInput for an unknown one."""
        return None if number == 0 else self.from_number(number, path)


# Fields that are called otherwise in the contract, by value type; elsewhere the names are the same.
_CONTRACT_NAMES: dict[str, dict[str, str]] = {
    "Table": {"rows": "rows_json"},
    "Tool": {"input_schema": "input_schema_json", "output_schema": "output_schema_json"},
    "Fact": {"value": "value_json"},
    "PlanStep": {"arguments": "arguments_json"},
    "ArgumentMatcher": {"equals": "equals_json"},
    "AnswerCheck": {"values": "values_json"},
    "AgentTurn": {"arguments": "arguments_json"},
    "ToolResult": {"result": "result_json"},
    "UserReply": {"reply": "kind", "revealed": "revealed_fact_ids"},
}


def build(path: str, make: Callable[P, T], /, *_: P.args, **fields: P.kwargs) -> T:
    """`make(**fields)`, with its complaint turned into InvalidInput at `path`."""
    try:
        return make(**fields)  # type: ignore[call-arg]  # values take keywords only
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        names = _CONTRACT_NAMES.get(getattr(make, "__name__", ""), {})
        place = path
        for number, part in enumerate(first["loc"]):
            if isinstance(part, int):
                place += f"[{part}]"
            elif number == 0:
                place += f".{names.get(part, part)}"
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{place}: {message}.", field=place) from error


def required(message: Message, name: str, path: str) -> str:
    """The path of a part that must be there. Raises InvalidInput where it is not."""
    if not message.HasField(name):
        raise InvalidInput(f"{path}.{name} is required.", field=f"{path}.{name}")
    return f"{path}.{name}"


def chosen(message: Message, oneof: str, path: str) -> str:
    """The name of the oneof's field that is set. Raises InvalidInput where none is."""
    name = message.WhichOneof(oneof)
    if name is None:
        choices = ", ".join(field.name for field in message.DESCRIPTOR.oneofs_by_name[oneof].fields)
        raise InvalidInput(f"{path} needs one of {choices}.", field=path)
    return str(name)


def json_from_text(text: str, path: str) -> JsonValue:
    """The JSON value of a text. Raises InvalidInput."""
    try:
        value: JsonValue = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"{path} is not JSON: {error}.", field=path) from error
    return value


def json_object_from_text(text: str, path: str) -> dict[str, JsonValue]:
    """The JSON object of a text. Raises InvalidInput."""
    value = json_from_text(text, path)
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} must be a JSON object.", field=path)
    return value


def json_to_text(value: object) -> str:
    """A value as compact JSON text, in the order of its keys."""
    return orjson.dumps(value).decode()


def timestamp(microseconds: int) -> Timestamp:
    """The message of a time as the tables hold it: microseconds since 1970 UTC."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)
