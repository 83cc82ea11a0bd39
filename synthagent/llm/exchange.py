"""What goes to a model server and what comes back, without the library that carries it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthagent.llm.answers import Message, Usage


@dataclass(frozen=True, slots=True)
class Request:
    """What one request asks for."""

    messages: Sequence[Message]
    max_tokens: int
    temperature: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    response_format: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What the server sent: a text and why it ended there."""

    text: str
    refusal: str
    finish_reason: str
    usage: Usage
