"""Plausible other values: what a careless agent might have put where a gold plan has one value.

The order of sources is the order of temptation: siblings in the result that the value came from,
other choices of the parameter's enumeration, other rows of the column that holds the value, rows
that look like it, and last the value slightly wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from synthagent.worlds.matching import same
from synthagent.worlds.plans import PlanError, point
from synthagent.worlds.spec import PlanStep, Task
from synthagent.worlds.values import Scalar

MAX_ALTERNATIVES = 3


class Alternatives:
    """Other values for the arguments of one task's plans; the seed rows are read once."""

    def __init__(self, task: Task) -> None:
        self._schemas = {tool.name: tool.input_schema for tool in task.world.tools}
        self._columns: list[list[Scalar]] = []
        for table in task.world.tables:
            for index in range(len(table.columns)):
                values = list(dict.fromkeys(row[index] for row in table.rows))
                self._columns.append([value for value in values if value is not None])

    def of(
        self, step: PlanStep, name: str, value: JsonValue, results: Mapping[str, JsonValue]
    ) -> list[JsonValue]:
        """At most MAX_ALTERNATIVES other values for one argument, without repetition."""
        found: list[JsonValue] = []
        for other in self._candidates(step, name, value, results):
            if not any(equal(other, known) for known in (value, *found)):
                found.append(other)
                if len(found) == MAX_ALTERNATIVES:
                    break
        return found

    def of_value(self, value: JsonValue) -> list[JsonValue]:
        """Other values where nothing is known but the value."""
        others = [*self._rows(value), *_slightly_wrong(value)]
        return [other for other in others if not equal(other, value)][:MAX_ALTERNATIVES]

    def _candidates(
        self, step: PlanStep, name: str, value: JsonValue, results: Mapping[str, JsonValue]
    ) -> Iterator[JsonValue]:
        siblings = _siblings(step.arguments.get(name), results)
        yield from _first((item for item in siblings if not equal(item, value)), 1)
        yield from _first(_after(self._enumeration(step.tool, name), value), 2)
        yield from _first(self._rows(value), 2)
        yield from _slightly_wrong(value)

    def _enumeration(self, tool: str, name: str) -> list[JsonValue]:
        properties = self._schemas[tool].get("properties")
        definition = properties.get(name) if isinstance(properties, dict) else None
        choices = definition.get("enum") if isinstance(definition, dict) else None
        return choices if isinstance(choices, list) else []

    def _rows(self, value: JsonValue) -> Iterator[JsonValue]:
        """Other values of the columns that hold the value, then of columns that look like it."""
        for column in self._columns:
            if any(equal(item, value) for item in column):
                yield from _first(_after(column, value), 2)
        if isinstance(value, str) and any(character.isdigit() for character in value):
            shape = _shape(value)
            for column in self._columns:
                alike = (item for item in column if isinstance(item, str) and _shape(item) == shape)
                yield from _first(alike, 2)


def _first(values: Iterator[JsonValue], count: int) -> Iterator[JsonValue]:
    for _, value in zip(range(count), values, strict=False):
        yield value


def _after(values: list[JsonValue] | list[Scalar], value: JsonValue) -> Iterator[JsonValue]:
    """The other values, beginning behind the given one: its neighbours are the likely mistakes."""
    start = next((i for i, item in enumerate(values) if equal(item, value)), -1) + 1
    for item in (*values[start:], *values[:start]):
        if not equal(item, value):
            yield item


def _siblings(reference: JsonValue, results: Mapping[str, JsonValue]) -> Iterator[JsonValue]:
    """The same field of the other items of the array that a step reference points into."""
    if not isinstance(reference, dict) or "$step" not in reference:
        return
    result = results.get(str(reference["$step"]))
    parts = str(reference.get("path", "")).split("/")
    for depth, part in enumerate(parts):
        if part.isdecimal():
            for index in range(8):
                pointer = "/".join((*parts[:depth], str(index), *parts[depth + 1 :]))
                try:
                    yield point(result, pointer)
                except PlanError:
                    break


def _slightly_wrong(value: JsonValue) -> Iterator[JsonValue]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
        yield max(value - 1, 0)
    elif isinstance(value, float):
        yield value + 1.0
    elif isinstance(value, str):
        yield _next_digit(value) if re.search(r"\d", value) else f"{value}s"


def _next_digit(value: str) -> str:
    """The text with its last digit counted on by one."""
    at = max(i for i, character in enumerate(value) if character.isdigit())
    return f"{value[:at]}{(int(value[at]) + 1) % 10}{value[at + 1 :]}"


def _shape(value: str) -> str:
    return re.sub(r"[a-z]", "a", re.sub(r"\d+", "9", value.casefold()))


def equal(one: JsonValue, other: JsonValue) -> bool:
    """Whether two arguments are the same value to a rubric."""
    if isinstance(other, list | dict):
        return one == other
    return same(one, other)
