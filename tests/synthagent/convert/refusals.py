"""Runs a conversion that may refuse."""

from collections.abc import Callable
from typing import TypeVar

from synthagent.errors import InvalidInput

T = TypeVar("T")


def attempt(convert: Callable[[], T]) -> T | InvalidInput:
    """What `convert` gives, or how it refused; any other exception goes on."""
    try:
        return convert()
    except InvalidInput as error:
        return error
