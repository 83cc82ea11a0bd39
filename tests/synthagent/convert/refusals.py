"""Messages from anywhere, and what a conversion makes of them: a value or a named field."""

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import reject
from hypothesis import strategies as st

from synthagent.errors import InvalidInput

T = TypeVar("T")
M = TypeVar("M", bound=Message)

_TEXTS = st.sampled_from(["{}", "[]", "null", "1", '"a"', "[[1]]", "{", "a", "a b"]) | st.text(
    st.characters(codec="utf-8"), max_size=8
)
_VALUES: dict[int, st.SearchStrategy[object]] = {
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 12),  # also numbers that no enum has
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_STRING: _TEXTS,
}


def attempt(convert: Callable[[], T]) -> T | InvalidInput:
    """What `convert` gives, or how it refused; any other exception goes on."""
    try:
        return convert()
    except InvalidInput as error:
        return error


def names_a_field(refusal: InvalidInput, root: str) -> bool:
    """Whether a refusal says where in the message `root` the fault is, also to a person."""
    inside = refusal.field == root or refusal.field.startswith((f"{root}.", f"{root}["))
    return inside and refusal.field in refusal.message


def decoded(kind: type[M], data: bytes) -> M:
    """The message of these bytes; bytes that are none are no example."""
    try:
        return kind.FromString(data)
    except DecodeError:
        reject()


@st.composite
def messages(draw: st.DrawFn, kind: type[M]) -> M:
    """Any message of a kind: parts missing, enum numbers unknown, texts that are no JSON."""
    message = kind()
    _fill(draw, message, depth=4)
    return message


def _fill(draw: st.DrawFn, message: Message, depth: int) -> None:
    fields: list[Any] = list(message.DESCRIPTOR.fields)  # of two classes in the type stubs
    for field in draw(st.lists(st.sampled_from(fields), max_size=5)) if fields else ():
        many = field.is_repeated
        if field.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE:
            value = draw(_VALUES[field.cpp_type])
            if many:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
        elif field.message_type and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[draw(_TEXTS)] = draw(_TEXTS)
        elif depth:
            part = getattr(message, field.name)
            if not many:
                part.SetInParent()
            _fill(draw, part.add() if many else part, depth - 1)
