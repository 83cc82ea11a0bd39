"""What goes through the door to models: messages in, answers and their cost out.

A `Meter` collects the cost of every call made in its block, of failed ones too, so that a task that
was rejected half-way still shows what it cost. It lives in a context variable: tasks started in the
block count into it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Message(NamedTuple):
    """A message of a conversation with a model."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls of a model cost. `Usage()` is zero, and usages add."""

    calls: int = 0
    """Answers that the model gave, repairs included."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """By the prices in the settings, in their currency."""
    seconds: float = 0.0
    """Of waiting for the answers, from request to response."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class Answer(Generic[T_co]):
    """A model's answer: what it says, and what it cost when it was made."""

    value: T_co
    usage: Usage
    stored: bool
    """Whether it was made by an earlier call and came from the response store."""


class Meter:
    """Sums what the calls in its block cost."""

    def __init__(self, outer: Meter | None = None) -> None:
        self.usage = Usage()
        self._outer = outer

    def count(self, usage: Usage) -> None:
        """Adds a call, here and in the meter of the block around this one."""
        self.usage += usage
        if self._outer is not None:
            self._outer.count(usage)


_METER: ContextVar[Meter | None] = ContextVar("synthagent_model_meter", default=None)


@contextlib.contextmanager
def metered() -> Iterator[Meter]:
    """Counts every call made in the block, stored and failed ones too, into the meter it gives."""
    meter = Meter(_METER.get())
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


def count(usage: Usage) -> None:
    """Adds to the meter of the current task, if there is one."""
    meter = _METER.get()
    if meter is not None:
        meter.count(usage)
