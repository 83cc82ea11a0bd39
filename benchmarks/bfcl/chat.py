"""An item in the chat format that policies are trained in, and a policy's text as BFCL reads it.

BFCL's function-calling mode: the model gets its tools in its own format and its calls are handed to
the checker as `{name: arguments}`. The format is that of `services/rollout/prompts/system.md`
without its line on the restriction, because no item has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

import orjson
from pydantic import JsonValue

from benchmarks.bfcl.process import Function
from services.rollout.prompt import tool_line
from synthagent.worlds.episode import AgentAction
from synthagent.worlds.protocol import parse

FORMAT = "synthagent-function-calling/1"
"""Name of this format in settings and reports; changes with anything a model reads."""


def system_text(functions: Sequence[Function]) -> str:
    """The functions, one a line, and how to call them."""
    template = (
        resources.files("services.rollout").joinpath("prompts", "system.md").read_text("utf-8")
    )
    lines = [line for line in template.strip().splitlines() if "{rule}" not in line]
    return "\n".join(lines).format(tools="\n".join(map(_line, functions)))


def calls_in(text: str) -> list[dict[str, str]] | str:
    """The call that a turn makes, as `[{name: arguments}]`, or else what it says.

    A call whose JSON cannot be read is no call, as for BFCL's own decoders.
    """
    turn = parse(text)
    if turn.action is not AgentAction.CALL:
        return turn.content
    try:
        arguments = orjson.loads(turn.arguments)
    except orjson.JSONDecodeError:
        return turn.text
    if not turn.tool or not isinstance(arguments, dict):
        return turn.text
    return [{turn.tool: turn.arguments}]


def _line(function: Function) -> str:
    said = _descriptions(function.parameters)
    description = f"{function.description} {said}" if said else function.description
    return tool_line(function.name, function.parameters, description)


def _descriptions(schema: Mapping[str, JsonValue]) -> str:
    """What is said of each parameter, those of nested objects in brackets."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return ""
    parts = []
    for name, part in properties.items():
        if not isinstance(part, dict):
            continue
        nested = _descriptions(part)
        said = str(part.get("description", "")).rstrip(".")
        parts.append(f"{name}: {said} ({nested})" if nested else f"{name}: {said}")
    return "; ".join(parts)
