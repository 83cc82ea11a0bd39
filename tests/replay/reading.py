"""Reads what the roles are told back out of their prompts: the call, the facts, the record."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tests.replay.recognition import UnknownRequestError

_CALL = re.compile(r"(?ms)^The call:\s+`(?P<tool>[^`]+)` `(?P<arguments>.*)`\s*\Z")
_NEW_CALL = re.compile(r"(?ms)^New call:\s+`(?P<arguments>.*)`\s*\Z")
_EARLIER = re.compile(r"(?m)^(?P<number>\d+)\. `(?P<arguments>.*)`$")
_FACT = re.compile(r"(?m)^- (?P<fact>\{\"id\".*\})$")
_MESSAGE = re.compile(r"(?m)^The last message of the assistant, as JSON text, is:\n(?P<said>.*)$")
_FENCE = re.compile(r"(?ms)^(?P<fence>----- [0-9a-f]+ -----)$\n(?P<record>.*?)^(?P=fence)$")
_CRITERION = re.compile(r"(?m)^# The question\s+(?P<criterion>\{.*\})$")


def find(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    """The match. Raises UnknownRequestError where a prompt is not as this file knows it."""
    match = pattern.search(text)
    if match is None:
        raise UnknownRequestError(f"the prompt holds no {pattern.pattern!r}")
    return match


def call(text: str) -> tuple[str, dict[str, Any]]:
    """The call that a tool is to answer."""
    match = find(_CALL, text)
    return match["tool"], json.loads(match["arguments"])


def calls_to_compare(text: str) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """The new call's arguments, and those of the numbered earlier ones."""
    earlier = {int(m["number"]): json.loads(m["arguments"]) for m in _EARLIER.finditer(text)}
    return json.loads(find(_NEW_CALL, text)["arguments"]), earlier


def facts(text: str) -> list[dict[str, Any]]:
    """The user's facts as its prompt lists them."""
    return [json.loads(match["fact"]) for match in _FACT.finditer(text)]


def message(text: str) -> str:
    """What the assistant said last."""
    return str(json.loads(find(_MESSAGE, text)["said"]))


@dataclass(frozen=True)
class Happened:
    """One event of the record that a judge reads."""

    number: int
    by: str
    what: str
    tool: str
    text: str

    def holds(self, part: str) -> bool:
        """Whether its text holds the part, whatever the case."""
        return part.casefold() in self.text.casefold()


def record(text: str) -> list[Happened]:
    """The events that a judge reads."""
    lines = [json.loads(line) for line in find(_FENCE, text)["record"].splitlines()]
    return [_happened(line) for line in lines if "event" in line]


def _happened(line: dict[str, Any]) -> Happened:
    spoken = line.get("arguments", line.get("result", line.get("text", "")))
    if isinstance(spoken, dict):  # shortened
        spoken = spoken["text"]
    return Happened(
        line["event"], line["by"], line.get("what", ""), line.get("tool", ""), str(spoken)
    )


def criterion(text: str) -> tuple[str, bool]:
    """All words of the criterion, and whether it is a rule to be kept."""
    words: dict[str, str] = json.loads(find(_CRITERION, text)["criterion"])
    return "\n".join(map(str, words.values())), "a rule that the agent had to keep" in text


def overlap(one: str, other: str) -> int:
    """Content words, by their first five letters, that two sentences share."""
    return len(_stems(one) & _stems(other))


def _stems(text: str) -> set[str]:
    return {word[:5] for word in re.findall(r"[a-z0-9]{3,}", text.casefold())} - _LIGHT


_LIGHT = frozenset(
    (
        *("the", "you", "your", "for", "and", "what", "which", "when", "who", "how", "are", "was"),
        *("can", "could", "pleas", "tell", "need", "want", "would", "like", "that", "this", "with"),
        *("have", "has", "any", "does", "shoul"),
    )
)


def bare(value: Any) -> Any:
    """A value without regard to case, spaces and punctuation: what "the same call" compares."""
    if isinstance(value, str):
        return re.sub(r"[^a-z0-9]+", "", value.casefold())
    if isinstance(value, dict):
        return {key: bare(part) for key, part in value.items()}
    if isinstance(value, list):
        return [bare(part) for part in value]
    return value
