"""The rules that a tool set must keep, each a named transformation or refusal (method, section 1).

A transformation returns new tools; a refusal raises Broken with the sentence that goes back to the
model. `RULES` lists, in order, those that need the tools alone. `without_replaceable` and
`with_distractors` also need answers of the model. All are pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue

from services.task_synthesis.teacher.bounds import plain, words
from services.task_synthesis.teacher.products import Replaceability, ToolDesign, ToolSet
from services.task_synthesis.teacher.repair import Broken
from services.task_synthesis.teacher.route import Step
from synthagent.worlds.arguments import ArgumentSchema, SchemaError
from synthagent.worlds.spec import Restriction, SimulatedBehaviour, Tool

MAX_OUTPUTS = 2
MIN_TOOLS = 2
"""Tools that must be left when those that a model can replace are gone."""

POLICY_ID = "restriction_kept"

_MEDIA = frozenset(
    (
        *("animation", "audio", "binary", "blob", "chart", "clip", "diagram", "document", "file"),
        *("image", "map", "pdf", "photo", "picture", "plot", "recording", "screenshot", "song"),
        *("sound", "spreadsheet", "thumbnail", "video", "waveform"),
    )
)
_HANDLES = frozenset(("count", "id", "link", "name", "status", "title", "type", "uri", "url"))
_TEXTUAL_MEDIA = re.compile(r"text/|application/json")
_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_QUOTED = re.compile(r"[\"“”«»`]|(?<!\w)'|\$\{|\{\{|://|@")
_RULE = re.compile(
    r"^(?:(?:the\s+)?(?:tool\s+)?\S+\s+must\s+not\s+be\s+used\s+)?to\s+", re.IGNORECASE
)
_DIGITS = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class CheckedTools:
    """A tool set under its rules: tools with names that the contract allows."""

    tools: tuple[ToolDesign, ...]
    restricted: str
    forbidden_use: str
    reason: str
    workflow: tuple[str, ...]

    @property
    def restriction_text(self) -> str:
        """The rule as the agent reads it."""
        return f"Tool {self.restricted} must NOT be used to {self.forbidden_use}."


Rule = Callable[[Sequence[ToolDesign]], tuple[ToolDesign, ...]]


def tool_name(name: str) -> str:
    """A name that the contract allows. Raises Broken where nothing of it is left."""
    cleaned = _NAME.sub("_", name).strip("_.-")[:64].strip("_.-")
    if not cleaned or not cleaned[0].isalpha():
        raise Broken(Step.TOOL_CHECK, f"the tool name {name!r} does not begin with a letter")
    return cleaned


def name_plainly(tools: Sequence[ToolDesign]) -> tuple[ToolDesign, ...]:
    """Names hold letters, digits, _, . and - only."""
    return tuple(tool.model_copy(update={"name": tool_name(tool.name)}) for tool in tools)


def differ_in_name(tools: Sequence[ToolDesign]) -> tuple[ToolDesign, ...]:
    """No two names are the same words."""
    check_names([tool.name for tool in tools])
    return tuple(tools)


def check_names(names: Sequence[str]) -> None:
    """No two names are the same words. Raises Broken."""
    _differ("name", names)


def differ_in_category(tools: Sequence[ToolDesign]) -> tuple[ToolDesign, ...]:
    """No two tools are of one category."""
    _differ("category", [tool.category for tool in tools])
    return tuple(tools)


def _differ(what: str, values: Sequence[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if plain(value) in seen:
            raise Broken(Step.TOOL_CHECK, f"two tools have the {what} {value!r}; make them differ")
        seen.add(plain(value))


def shape_outputs(tools: Sequence[ToolDesign]) -> tuple[ToolDesign, ...]:
    """A result is an object with at least one described property."""
    return tuple(
        tool.model_copy(update={"output_schema": _as_object(tool.output_schema)}) for tool in tools
    )


def _as_object(schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    properties = schema.get("properties")
    if isinstance(properties, dict) and properties:
        return {**schema, "type": "object"}
    if schema.get("type") in (None, "object", "null"):
        status: JsonValue = {"type": "string", "description": "How the call ended"}
        return {"type": "object", "properties": {"status": status}, "required": ["status"]}
    return {"type": "object", "properties": {"result": dict(schema)}, "required": ["result"]}


def refer_to_media(tools: Sequence[ToolDesign]) -> tuple[ToolDesign, ...]:
    """A returned field that is no text becomes the identifier of what it would hold."""
    return tuple(
        tool.model_copy(update={"output_schema": _without_media(tool.output_schema)})
        for tool in tools
    )


def _without_media(schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    properties = schema["properties"]
    if not isinstance(properties, dict):
        return schema
    renamed: dict[str, str] = {}
    kept: dict[str, JsonValue] = {}
    for name, definition in properties.items():
        if not _is_media(name, definition):
            kept[name] = definition
            continue
        noun = words(name) or "result"
        renamed[name] = f"{noun.replace(' ', '_')}_id"
        kept[renamed[name]] = {"type": "string", "description": f"Identifier of the {noun}"}
    required = [renamed.get(name, name) for name in _strings(schema.get("required"))]
    return {**schema, "properties": kept, "required": list(dict.fromkeys(required))}


def _is_media(name: str, definition: JsonValue) -> bool:
    if not isinstance(definition, dict):
        return False
    if definition.get("contentEncoding") or definition.get("format") in ("binary", "byte"):
        return True
    media_type = definition.get("contentMediaType")
    if isinstance(media_type, str) and not _TEXTUAL_MEDIA.match(media_type):
        return True
    parts = words(name).split()
    described = words(str(definition.get("description", ""))).split()
    if "base64" in (*parts, *described):
        return True
    of_text = definition.get("type", "string") in ("string", ["string", "null"])
    return of_text and bool(parts) and parts[-1] in _MEDIA and not set(parts) & _HANDLES


def return_little(tools: Sequence[ToolDesign]) -> tuple[ToolDesign, ...]:
    """A result has at most two fields: required ones stay before others, in their order."""
    return tuple(
        tool.model_copy(update={"output_schema": _at_most_two(tool.output_schema)})
        for tool in tools
    )


def _at_most_two(schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    properties = schema.get("properties")
    if not isinstance(properties, dict) or len(properties) <= MAX_OUTPUTS:
        return schema
    required = _strings(schema.get("required"))
    ranked = sorted(properties, key=lambda name: name not in required)[:MAX_OUTPUTS]
    kept = {name: value for name, value in properties.items() if name in ranked}
    return {
        **schema,
        "properties": kept,
        "required": [name for name in required if name in kept],
    }


def _strings(value: JsonValue) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def compile_schemas(tools: Sequence[ToolDesign]) -> tuple[ToolDesign, ...]:
    """Both schemas of every tool are JSON Schema 2020-12 object schemas."""
    for tool in tools:
        for what, schema in (("input", tool.input_schema), ("output", tool.output_schema)):
            try:
                ArgumentSchema(schema)
            except SchemaError as error:
                raise Broken(
                    Step.TOOL_CHECK, f"the {what}_schema of tool {tool.name}: {error}"
                ) from error
    return tuple(tools)


RULES: tuple[Rule, ...] = (
    name_plainly,
    differ_in_name,
    differ_in_category,
    shape_outputs,
    refer_to_media,
    return_little,
    compile_schemas,
)


def check(product: ToolSet) -> CheckedTools:
    """The tool set under every rule that needs no further answer. Raises Broken."""
    tools: tuple[ToolDesign, ...] = tuple(product.tools)
    for rule in RULES:
        tools = rule(tools)
    checked = CheckedTools(
        tools=tools,
        restricted=restricted_tool([tool.name for tool in tools], product.restriction.tool),
        forbidden_use=forbidden_use(product.restriction.forbidden_use),
        reason=product.restriction.reason,
        workflow=tuple(product.workflow),
    )
    check_workflow(checked.workflow)
    return checked


def restricted_tool(names: Sequence[str], name: str) -> str:
    """The tool that the restriction names. Raises Broken where there is none."""
    wanted = plain(name)
    for known in names:
        if plain(known) == wanted:
            return known
    raise Broken(
        Step.TOOL_CHECK,
        f"the restriction names {name!r}, which is none of the tools: {', '.join(names)}",
    )


def forbidden_use(text: str) -> str:
    """What the tool must not be used to: the verb phrase alone, whatever was written around it."""
    phrase = _RULE.sub("", text).strip().rstrip(".!; ")
    if not phrase:
        raise Broken(Step.TOOL_CHECK, "the restriction does not say what is forbidden")
    if re.search(r"[.!?]\s", phrase) or "must not" in phrase.casefold():
        raise Broken(Step.TOOL_CHECK, "the restriction forbids more than one thing; keep one")
    return phrase


def check_workflow(workflow: Sequence[str]) -> None:
    """Sub-goals differ and hold no digits, quotes, addresses or slots. Raises Broken."""
    if len({words(goal) for goal in workflow}) != len(workflow):
        raise Broken(Step.TOOL_SET, "two sub-goals of the workflow are the same")
    for goal in workflow:
        if _DIGITS.search(goal) or _QUOTED.search(goal):
            raise Broken(
                Step.TOOL_SET,
                f"the sub-goal {goal!r} holds a value; a workflow names no numbers, quotations, "
                "addresses or slots",
            )


def without_replaceable(
    checked: CheckedTools, answers: Sequence[Replaceability]
) -> tuple[CheckedTools, tuple[str, ...]]:
    """The tools that a model cannot replace itself, and the names of the others.

    A tool without an answer stays. Raises Broken where too few are left, or the restricted one is
    not.
    """
    replaceable = {plain(answer.tool) for answer in answers if answer.replaceable}
    kept = tuple(t for t in checked.tools if plain(t.name) not in replaceable)
    dropped = tuple(tool.name for tool in checked.tools if tool not in kept)
    if checked.restricted in dropped:
        raise Broken(
            Step.TOOL_CHECK,
            f"a language model could replace the restricted tool {checked.restricted} by itself; "
            "restrict a tool that reads or changes something outside the model",
        )
    if len(kept) < MIN_TOOLS:
        raise Broken(
            Step.TOOL_CHECK,
            f"a language model could replace {', '.join(dropped)} by itself; invent tools that "
            "read or change something outside the model",
        )
    return replace(checked, tools=kept), dropped


def with_distractors(checked: CheckedTools, distractors: Sequence[ToolDesign]) -> CheckedTools:
    """The tools with one or two more that the task does not need. Raises Broken.

    They stand where their names fall, so that their place tells nothing.
    """
    tools: tuple[ToolDesign, ...] = (*checked.tools, *distractors)
    for rule in RULES:
        tools = rule(tools)
    return replace(checked, tools=tuple(sorted(tools, key=lambda tool: tool.name.casefold())))


def as_tool(design: ToolDesign) -> Tool:
    """The tool as the contract has it."""
    return Tool(
        name=design.name,
        description=design.description,
        input_schema=design.input_schema,
        output_schema=design.output_schema,
        category=design.category,
        behaviour=SimulatedBehaviour(
            guidance=design.simulation, changes_state=design.changes_state
        ),
    )


def as_restriction(checked: CheckedTools) -> Restriction:
    """The restriction as the contract has it; nothing shows that a simulated act is possible."""
    return Restriction(text=checked.restriction_text, reason=checked.reason, criterion_id=POLICY_ID)
