"""What a policy reads: the system text with the restriction and the tools, and the instruction.

The texts lie in `prompts/*.md`. Tools are written as one-line signatures, because a small policy on
a CPU pays for every token: `find(name: string, day?: monday|friday) - description`. A pure function
of the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

from pydantic import JsonValue

from synthagent.worlds.spec import Task, Tool

_SHORT_TYPES = {"integer": "int", "boolean": "bool"}


@cache
def _template(name: str) -> str:
    return resources.files("services.rollout").joinpath("prompts", name).read_text("utf-8").strip()


def system_text(task: Task) -> str:
    """The restriction with its reason, the tools and the protocol."""
    return _template("system.md").format(
        rule=f"{task.restriction.text} {task.restriction.reason}",
        tools="\n".join(signature(tool) for tool in task.world.tools),
    )


def user_text(task: Task) -> str:
    """Who asks, and for what."""
    return _template("user.md").format(
        name=task.persona.name, role=task.persona.role, instruction=task.instruction
    )


def with_facts_in_instruction(task: Task) -> Task:
    """The task as an agent gets it that has nothing to ask: the ablation of the information gap."""
    facts = "; ".join(f"{fact.label}: {fact.spoken}" for fact in task.facts)
    instruction = _template("facts.md").format(instruction=task.instruction, facts=facts)
    return task.model_copy(update={"instruction": instruction})


def signature(tool: Tool) -> str:
    """One line: name, parameters (optional ones marked `?`) and description."""
    return tool_line(tool.name, tool.input_schema, tool.description)


def tool_line(name: str, schema: Mapping[str, JsonValue], description: str) -> str:
    """The signature of a tool that is known by its parts only."""
    properties, required = schema.get("properties"), schema.get("required")
    parameters = properties.items() if isinstance(properties, dict) else ()
    needed = required if isinstance(required, list) else []
    written = ", ".join(
        f"{key}{'' if key in needed else '?'}: {_type(part)}" for key, part in parameters
    )
    return f"{name}({written}) - {description}"


def _type(schema: JsonValue) -> str:
    """A parameter's type in as few tokens as say it: its values, its format, or its JSON type."""
    if not isinstance(schema, dict):
        return "any"
    if "const" in schema:
        return str(schema["const"])
    values = schema.get("enum")
    if isinstance(values, list):
        return "|".join(str(value) for value in values)
    named = schema.get("format") or schema.get("type")
    if named == "array":
        return f"[{_type(schema.get('items'))}]"
    if isinstance(named, list):
        return "|".join(_SHORT_TYPES.get(str(name), str(name)) for name in named)
    return _SHORT_TYPES.get(str(named), str(named)) if named else "any"
