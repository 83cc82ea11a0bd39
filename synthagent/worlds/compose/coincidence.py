"""Drops drawings in which a value stands by chance where it would spoil the task.

Words are drawn from many lists, so a fact may happen to be a word of the instruction, of a tool's
description or of another value of the task. Certification would reject such a task; this finds it
earlier and cheaper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from synthagent.worlds.compose.blueprint import Unfit
from synthagent.worlds.compose.gold import Route
from synthagent.worlds.criteria import AnswerCheck
from synthagent.worlds.matching import contains
from synthagent.worlds.spec import SqlProgram, Task, Tool


def check(task: Task, routes: Sequence[Route]) -> None:
    """Raises Unfit where a fact stands in a text, or the instruction holds the answer."""
    texts = "\n".join(_shown(task))
    values = list(_other_values(routes))
    for fact in task.facts:
        if contains(texts, fact.value):
            raise Unfit(f"{fact.value!r} stands in a text that the agent reads")
        others = [other.value for other in task.facts if other is not fact]
        if any(contains(str(value), fact.value) for value in (*values, *others)):
            raise Unfit(f"{fact.value!r} stands in another value of the task")
    for criterion in task.criteria:
        if isinstance(criterion.check, AnswerCheck) and _says(task.instruction, criterion.check):
            raise Unfit("the instruction holds the answer")


def _says(text: str, answer: AnswerCheck) -> bool:
    phrases = not answer.any_of or any(contains(text, phrase) for phrase in answer.any_of)
    return phrases and all(contains(text, value) for value in answer.values)


def _shown(task: Task) -> Iterator[str]:
    """The texts that the agent reads, but enumerations and results."""
    persona, restriction = task.persona, task.restriction
    yield from (task.instruction, persona.name, persona.role, persona.description)
    yield from (restriction.text, restriction.reason)
    for tool in task.world.tools:
        yield from _tool_texts(tool)


def _tool_texts(tool: Tool) -> Iterator[str]:
    yield from (tool.name, tool.description)
    properties = tool.input_schema["properties"]
    for name, schema in properties.items() if isinstance(properties, dict) else ():
        yield name
        if isinstance(schema, dict):
            yield str(schema.get("description", ""))
    if isinstance(tool.behaviour, SqlProgram):
        yield from (statement.error_message for statement in tool.behaviour.statements)


def _other_values(routes: Iterable[Route]) -> Iterator[object]:
    """Arguments of the gold calls that are no facts."""
    for route in routes:
        for walked, step in zip(route.walked, route.plan.steps, strict=True):
            for name, written in step.arguments.items():
                if not isinstance(written, dict) or "$fact" not in written:
                    yield walked.arguments[name]
