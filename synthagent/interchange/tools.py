"""The tools of a released item: from the JSON of its <tools> block to Tools, and back.

A tool in the released form is {"type": "function", "function": {"name", "description",
"parameters", "outputs"}}. Odd ones are read as what they mean (an absent schema takes no arguments,
a Python type name is the JSON type) and noted; `render_tools` gives the odd form back while reading
it still gives the same tool.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from synthagent.interchange.findings import Unparsed, one_line
from synthagent.interchange.schemas import clean_inputs, clean_outputs
from synthagent.worlds.spec import SimulatedBehaviour, Tool

MAX_DESCRIPTION = 1000
_MAX_NAME = 64
_PARAMETERS = ("parameters", "inputs", "input", "input_schema", "arguments")
_OUTPUTS = ("outputs", "output", "output_schema", "returns")
_ODD_CHARACTERS = re.compile(r"[^A-Za-z0-9_. -]+")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_CHANGING = re.compile(
    r"(add(s|er)?$|append|approv|archiv|assign|book(s|ing|er)?$|broadcast|buy|cancel|commit|creat"
    r"|delet|deploy|dispatch|draft|edits?$|email|enrol|execut|fil(es|er|ing)$|generat|hosts?$|insert"
    r"|issue[sr]?$|log(s|ger)$|marks?$|modif|notif|order(s|ing)?$|pay(s|ment)?$|post(s|er)?$|print"
    r"|publish|purchas|record(s|er)?$|refund|regist(er|ers|ration)$|remov|renam|reserv|reset|sav"
    r"|schedul|send|sets?$|stores?$|submi|transfer|updat|upload|writ)",
    re.IGNORECASE,
)
_READING = re.compile(
    r"fetch|retriev|search|quer(y|ie)|find|lookup|analy[sz]|scan|check|monitor|estimat|track|view",
    re.IGNORECASE,
)


@dataclass(slots=True)
class ToolSet:
    """The tools of an item in order, what was noted on the way, and the odd ones as they were."""

    tools: list[Tool] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)  # place in the block, and what
    odd: dict[str, JsonValue] = field(default_factory=dict)  # by our name of the tool
    names: list[tuple[str, str]] = field(default_factory=list)  # name in the source, our name


def read_tools(block: str) -> ToolSet:
    """The tools of a block of JSON objects, on lines, in an array or one after the other.

    Raises Unparsed, whose place is a line of the block or the number of the tool.
    """
    found = ToolSet()
    twice: list[str] = []
    for number, value in enumerate(_values(block, twice)):
        place = f"tool {number}"
        notes: list[str] = []
        name = _function(value, place).get("name")
        if not isinstance(name, str) or not name.strip():
            raise Unparsed(place, "it has no name")
        ours = _new_name(name, number, {tool.name for tool in found.tools})
        tool = _read_tool(value, ours, place, notes)
        if ours != name:
            notes.append(f"the name {name!r} is taken or not allowed here; it is called {ours!r}")
        if notes or plain_form(tool) != value:
            found.odd[ours] = value
        found.tools.append(tool)
        found.names.append((name, ours))
        found.notes.extend((place, note) for note in notes)
    found.notes.extend(("tools", f"the key {key!r} stands twice; the last counts") for key in twice)
    if not found.tools:
        raise Unparsed("tools", "there is no tool in the block")
    return found


def render_tools(tools: Iterable[Tool], odd: dict[str, JsonValue]) -> list[JsonValue]:
    """The tools in the released form; an odd form is used where it still means the same tool."""
    return [_odd_form(tool, odd) or plain_form(tool) for tool in tools]


def plain_form(tool: Tool) -> dict[str, JsonValue]:
    """A tool in the released form."""
    function: dict[str, JsonValue] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
    }
    if tool.output_schema is not None:
        function["outputs"] = tool.output_schema
    return {"type": "function", "function": function}


def tool_lines(values: Sequence[JsonValue]) -> str:
    """Tools as the released form writes them: one JSON object a line."""
    return "\n".join(json.dumps(value, ensure_ascii=False) for value in values)


def _odd_form(tool: Tool, odd: dict[str, JsonValue]) -> JsonValue:
    value = odd.get(tool.name)
    if value is None:
        return None
    return value if _read_tool(value, tool.name, "tool", []) == tool else None


def _values(block: str, twice: list[str]) -> list[JsonValue]:
    """The JSON values of a block; `twice` is given the keys that an object holds more than once."""

    def collect(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
        keys = [key for key, _ in pairs]
        twice.extend(sorted({key for key in keys if keys.count(key) > 1}))
        return dict(pairs)

    decoder = json.JSONDecoder(object_pairs_hook=collect, strict=False)  # raw newlines in texts
    values: list[JsonValue] = []
    at = 0
    while True:
        while at < len(block) and block[at] in " \t\r\n,":
            at += 1
        if at == len(block):
            return values
        try:
            value, at = decoder.raw_decode(block, at)
        except (json.JSONDecodeError, RecursionError) as error:
            line = block.count("\n", 0, getattr(error, "pos", at)) + 1
            raise Unparsed(f"tools, line {line}", f"no JSON: {error}") from error
        values.extend(value if isinstance(value, list) else [value])


def _function(value: JsonValue, place: str) -> dict[str, JsonValue]:
    inner = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(inner, dict):
        raise Unparsed(place, "it is no object that describes a function")
    return inner


def _read_tool(value: JsonValue, name: str, place: str, notes: list[str]) -> Tool:
    function = _function(value, place)
    text = function.get("description")
    description = text if isinstance(text, str) else ""
    if text is not None and not isinstance(text, str):
        notes.append("its description is no text and is kept in the original only")
    if len(description) > MAX_DESCRIPTION:
        notes.append(f"its description is cut at {MAX_DESCRIPTION} characters")
        description = one_line(description, MAX_DESCRIPTION)
    inputs = clean_inputs(_first(function, _PARAMETERS), place, notes)
    outputs, guidance = clean_outputs(_first(function, _OUTPUTS), notes)
    category = function.get("category")
    return Tool(
        name=name,
        description=description,
        input_schema=inputs,
        output_schema=outputs,
        category=category if isinstance(category, str) else "",
        behaviour=SimulatedBehaviour(
            guidance=guidance, changes_state=_changes_state(str(function.get("name")), description)
        ),
    )


def _first(function: dict[str, JsonValue], keys: Sequence[str]) -> JsonValue:
    return next((function[key] for key in keys if function.get(key) is not None), None)


def _changes_state(name: str, description: str) -> bool:
    """Whether a call seems to leave something behind, by the words of its name and its verb.

    The source does not say. To take a tool for changing that is not costs shared answers; to take
    it for reading that is not lets it answer as if nothing had happened. So in doubt it changes.
    """
    words = [] if _READING.search(name) else _WORDS.findall(name)
    verb = re.match(r"(?:Simulates?\s+)?(?P<verb>[A-Za-z]+)", description)
    if verb is not None:
        words.append(verb["verb"])
    return any(_CHANGING.match(word) for word in words)


def _new_name(original: str, number: int, taken: set[str]) -> str:
    """A name as our tools may have it, the same as the original where that is possible."""
    text = unicodedata.normalize("NFKD", original.strip(" []{}()`'\"\t\r\n"))
    text = _ODD_CHARACTERS.sub("_", "".join(c for c in text if not unicodedata.combining(c)))
    if not re.search(r"[A-Za-z0-9]", text):
        text = f"tool_{number + 1}"
    if not text[0].isalpha():
        text = "tool_" + text.lstrip("_")
    text = text[:_MAX_NAME].rstrip()
    name, count = text, 1
    while name in taken:
        count += 1
        suffix = f"_{count}"
        name = text[: _MAX_NAME - len(suffix)].rstrip() + suffix
    return name
