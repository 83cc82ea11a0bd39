"""The information gap: what an agent can read without asking must not tell a private fact.

A fact may not stand in any text that the agent is shown. It may occur in an enumeration or in the
results of read-only tools only as one of at least MIN_CHOICES distinct values of the same field:
then the agent sees what is possible, and still has to ask which it is. Results are explored for two
rounds, from arguments that need no fact: none at all, enumerations, literals of the gold plans, and
values found in earlier results. A boolean fact is never secret: its two values are known to all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, product

import orjson
from pydantic import JsonValue

from synthagent.worlds.gates import Examination, Failed
from synthagent.worlds.matching import contains, leaves
from synthagent.worlds.spec import Fact, SqlProgram, Task, Tool
from synthagent.worlds.values import Scalar

MIN_CHOICES = 3
_CALLS_PER_TOOL = 16  # in each round
_VALUES_PER_ARGUMENT = 6

Field = tuple[str, str]  # tool, and name of the field in its results or of the argument


def information_gap(examination: Examination) -> str:
    """The gate. Raises Failed, or EngineFault."""
    task = examination.task
    shown = "\n".join(_shown(task))
    choices: dict[Field, set[Scalar]] = {}
    for tool in task.world.tools:
        _read_enumerations(tool, choices)
    _explore(examination, choices)
    used = {
        fact_id
        for plan in task.gold_plans
        for step in plan.steps
        for fact_id in step.references("$fact")
    }
    for fact in task.facts:
        _check_hidden(fact, shown, choices)
        if task.gold_plans and fact.fact_id not in used:
            raise Failed(f"fact {fact.fact_id} is used by no argument of a gold plan")
    if not task.gold_plans:
        return "only what the agent is shown was searched: there is no gold plan"
    _check_needed(examination)
    return ""


def _shown(task: Task) -> Iterator[str]:
    """Every text that the agent is or may be shown, but results and enumerations."""
    persona = task.persona
    yield from (task.instruction, persona.name, persona.role, persona.description)
    yield from (task.restriction.text, task.restriction.reason)
    for tool in task.world.tools:
        yield from (tool.name, tool.description)
        yield from _words(tool.input_schema)
        if tool.output_schema is not None:
            yield from _words(tool.output_schema)
        if isinstance(tool.behaviour, SqlProgram):
            for statement in tool.behaviour.statements:
                yield statement.error_message


def _words(schema: JsonValue) -> Iterator[str]:
    """The texts of a schema, without the values of enumerations and the bounds of numbers."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "properties" and isinstance(value, dict):
                yield from value
            if key != "enum":
                yield from _words(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _words(item)
    elif isinstance(schema, str):
        yield schema


def _read_enumerations(tool: Tool, choices: dict[Field, set[Scalar]]) -> None:
    for name, definition in _properties(tool).items():
        if isinstance(definition, dict):
            listed = list(leaves(definition.get("enum", [])))
            if listed:
                choices.setdefault((tool.name, name), set()).update(listed)


def _properties(tool: Tool) -> dict[str, JsonValue]:
    properties = tool.input_schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _explore(examination: Examination, choices: dict[Field, set[Scalar]]) -> None:
    """Calls read-only tools without knowing a fact, and adds what their results show."""
    tools = [
        tool
        for tool in examination.task.world.tools
        if isinstance(tool.behaviour, SqlProgram) and not tool.changes_state
    ]
    known = _literals(examination.task)
    seen: set[tuple[str, str]] = set()
    examination.session.reset()
    for _ in range(2):
        found: dict[str, dict[Scalar, None]] = {}
        for tool in tools:
            for text in islice(_guesses(tool, known), _CALLS_PER_TOOL):
                if (tool.name, text) in seen:
                    continue
                seen.add((tool.name, text))
                result = examination.session.call(tool.name, text)
                if result.ok:
                    for name, value in _fields(orjson.loads(result.result)):
                        choices.setdefault((tool.name, name), set()).add(value)
                        found.setdefault(name, {})[value] = None
        for name, values in found.items():
            known.setdefault(name, {}).update(values)


def _literals(task: Task) -> dict[str, dict[Scalar, None]]:
    """Values that gold plans use and that are no facts: the agent can tell them from the task."""
    known: dict[str, dict[Scalar, None]] = {}
    for plan in task.gold_plans:
        for step in plan.steps:
            for name, value in step.arguments.items():
                if not isinstance(value, dict | list):
                    known.setdefault(name, {})[value] = None
    return known


def _guesses(tool: Tool, known: dict[str, dict[Scalar, None]]) -> Iterator[str]:
    """Arguments for a tool: none at all, then combinations of values known by argument name."""
    yield "{}"
    pools: list[list[tuple[str, Scalar]]] = []
    required = tool.input_schema.get("required")
    for name, definition in _properties(tool).items():
        listed = definition.get("enum") if isinstance(definition, dict) else None
        values = [*known.get(name, ()), *leaves(listed if isinstance(listed, list) else [])]
        if values:
            pools.append([(name, value) for value in values[:_VALUES_PER_ARGUMENT]])
        elif isinstance(required, list) and name in required:
            return
    for combination in product(*pools):
        yield orjson.dumps(dict(combination)).decode()


def _fields(value: JsonValue, name: str = "") -> Iterator[tuple[str, Scalar]]:
    """The scalars of a result with the name of the field that each stands in."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _fields(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _fields(item, name)
    else:
        yield name, value


def _check_hidden(fact: Fact, shown: str, choices: dict[Field, set[Scalar]]) -> None:
    if isinstance(fact.value, bool):
        raise Failed(f"fact {fact.fact_id} is a boolean, which can be guessed; make it a choice")
    if contains(shown, fact.value):
        raise Failed(f"fact {fact.fact_id} ({fact.spoken}) stands in a text that the agent reads")
    for (tool, name), values in choices.items():
        if len(values) < MIN_CHOICES and _occurs(fact, values):
            raise Failed(
                f"fact {fact.fact_id} ({fact.spoken}) can be read from {name} of {tool}, which "
                f"shows fewer than {MIN_CHOICES} values"
            )


def _occurs(fact: Fact, values: Iterable[Scalar]) -> bool:
    return any(
        contains(value if isinstance(value, str) else orjson.dumps(value).decode(), fact.value)
        for value in values
        if value is not None
    )


def _check_needed(examination: Examination) -> None:
    """An agent that never asks, or puts another value for a fact, loses a criterion."""
    for run in examination.runs:
        plan = run.plan
        used = {fact_id for step in plan.steps for fact_id in step.references("$fact")}
        if used and not examination.loses(examination.vary(plan, ask=False)):
            raise Failed(f"plan {plan.plan_id} earns everything without asking the user")
        for fact_id in sorted(used):
            for other in examination.alternatives.of_value(examination.facts[fact_id]):
                facts = {**examination.facts, fact_id: other}
                if not examination.loses(examination.vary(plan, facts=facts)):
                    raise Failed(f"fact {fact_id} may be {other!r} and nothing is lost")
