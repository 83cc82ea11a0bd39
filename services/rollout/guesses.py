"""What a careless agent takes a private fact to be without asking: plausible, and wrong.

A pure function of the task and the fact: the nearest other value that the tools accept or that the
world holds, chosen by SHA-256, so that the same task is guessed at alike on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from pydantic import JsonValue

from synthagent.worlds.spec import Fact, Scalar, Task

_NAMES = ("Alex Morgan", "Sam Keller", "Robin Hart")


def guess(task: Task, fact: Fact) -> JsonValue:
    """Another value of the fact's kind: of the parameter's list, else of its column, else made up."""
    for values in (_allowed(task, fact), _stored(task, fact)):
        others = [value for value in values if type(value) is type(fact.value)]
        if others := [value for value in others if value != fact.value]:
            return others[_draw(task, fact) % len(others)]
    if isinstance(fact.value, bool):
        return not fact.value
    if isinstance(fact.value, int | float):
        return fact.value + 1
    return _NAMES[_draw(task, fact) % len(_NAMES)]


def _allowed(task: Task, fact: Fact) -> list[JsonValue]:
    """The listed values of the first parameter that takes the fact."""
    for step in task.gold_plans[0].steps:
        tool = task.world.tool(step.tool)
        for name, value in step.arguments.items():
            if tool and isinstance(value, dict) and value.get("$fact") == fact.fact_id:
                properties = tool.input_schema.get("properties")
                schema = properties.get(name) if isinstance(properties, dict) else None
                values = schema.get("enum") if isinstance(schema, dict) else None
                return values if isinstance(values, list) else []
    return []


def _stored(task: Task, fact: Fact) -> list[Scalar]:
    """The values of the first column that holds the fact, each once."""
    for table in task.world.tables:
        for column in _columns(table.rows):
            if fact.value in column:
                return list(dict.fromkeys(column))
    return []


def _columns(rows: tuple[tuple[Scalar, ...], ...]) -> Iterator[tuple[Scalar, ...]]:
    yield from zip(*rows, strict=True)


def _draw(task: Task, fact: Fact) -> int:
    text = f"{task.task_id}/{fact.fact_id}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
