"""The model that answers for simulated tools: what it is asked, and what of its answers counts.

Two questions, each answered in JSON of a schema: which earlier call asks for the same, and what the
tool returns. An answer that does not fit is the door's to repair or refuse; here only what fits is
read. Stateless; the prompts are the Markdown files in `prompts/`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
from pydantic import JsonValue

from services.tool_mock.similarity import latest
from services.tool_mock.simulated_call import PastCall, SimulatedCall
from synthagent.errors import ModelMalformed
from synthagent.llm import LanguageModel, Message
from synthagent.llm.prompts import render
from synthagent.store.ledger import LedgerEntry
from synthagent.worlds.arguments import compile_schema
from synthagent.worlds.session import MAX_RESULT_BYTES
from synthagent.worlds.spec import SimulatedBehaviour

_PACKAGE = "services.tool_mock"
_PAST_CHARACTERS = 6000
_REASON_LENGTH = 500
_NO_NAME = re.compile(r"[^a-z0-9]+")

_ERROR_SCHEMA: dict[str, JsonValue] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string", "minLength": 1, "maxLength": 63},
                "message": {"type": "string", "minLength": 1, "maxLength": 500},
            },
            "required": ["code", "message"],
            "additionalProperties": False,
        }
    },
    "required": ["error"],
    "additionalProperties": False,
}


class Match(NamedTuple):
    """An earlier entry that asks for the same, and why."""

    entry: LedgerEntry
    reason: str


class Generated(NamedTuple):
    """What the tool returns, as JSON text; `error_code` is empty where it succeeded."""

    result: str
    error_code: str


@dataclass(frozen=True, slots=True)
class ToolModel:
    """Asks a model in the name of simulated tools. Raises ModelUnavailable and ModelFault."""

    model: LanguageModel

    async def match(self, call: SimulatedCall, candidates: Sequence[LedgerEntry]) -> Match | None:
        """The candidate that asks for the same as the call, or None."""
        messages = [
            Message("system", render(_PACKAGE, "match_rules")),
            Message(
                "user",
                render(_PACKAGE, "match_call", tool=call.tool, call=call, entries=candidates),
            ),
        ]
        answer = await self.model.structured(
            messages,
            _match_schema(len(candidates)),
            key=_key(call, "match"),
            purpose="semantic_match",
            temperature=0.0,
        )
        value = answer.value
        if not isinstance(value, dict) or not isinstance(value["entry"], int | float):
            raise TypeError("the door let pass what the schema forbids")
        number = int(value["entry"])
        if number == 0:
            return None
        reason = str(value["reason"]).replace("\x00", "")  # which not every database can hold
        return Match(candidates[number - 1], reason)

    async def generate(self, call: SimulatedCall, exemplars: Sequence[LedgerEntry]) -> Generated:
        """What the tool returns for the call: a result by its output schema, or an error."""
        behaviour = call.tool.behaviour
        messages = [
            Message("system", render(_PACKAGE, "answer_rules")),
            Message(
                "user",
                render(
                    _PACKAGE,
                    "answer_call",
                    task=call.task,
                    tool=call.tool,
                    guidance=behaviour.guidance
                    if isinstance(behaviour, SimulatedBehaviour)
                    else "",
                    output_schema=_json(call.tool.output_schema or {"type": "object"}),
                    exemplars=exemplars,
                    call=call,
                    past=_told(call),
                ),
            ),
        ]
        answer = await self.model.structured(
            messages,
            _answer_schema(call.tool.output_schema),
            key=_key(call, "answer"),
            purpose="tool_answer",
            temperature=0.3,
        )
        return _generated(answer.value, call.tool.output_schema)


def _match_schema(candidates: int) -> dict[str, JsonValue]:
    return {
        "type": "object",
        "properties": {
            "reason": {"type": "string", "minLength": 1, "maxLength": _REASON_LENGTH},
            "entry": {"type": "integer", "enum": list(range(candidates + 1))},
        },
        "required": ["reason", "entry"],
        "additionalProperties": False,
    }


def _answer_schema(output: dict[str, JsonValue] | None) -> dict[str, JsonValue]:
    """Either the tool's output, an object unless its schema says otherwise, or an error."""
    result = dict(output or {})
    if "properties" in result or not result:
        result.setdefault("type", "object")
    moved = _moved(result)
    if moved == result:
        return {"anyOf": [result, _ERROR_SCHEMA]}
    return {"anyOf": [{"$ref": "#/$defs/result"}, _ERROR_SCHEMA], "$defs": {"result": moved}}


def _moved(schema: JsonValue) -> JsonValue:
    """A schema whose references still hold below `#/$defs/result`."""
    if isinstance(schema, list):
        return [_moved(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: f"#/$defs/result{value[1:]}"
        if name == "$ref" and isinstance(value, str)
        else _moved(value)
        for name, value in schema.items()
    }


def _generated(value: JsonValue, output: dict[str, JsonValue] | None) -> Generated:
    if (error := _error(value)) is not None:
        return error
    text = orjson.dumps(value)
    if len(text) > MAX_RESULT_BYTES:
        return _refusal(
            "result_too_large", f"The result is longer than {MAX_RESULT_BYTES} bytes. Ask for less."
        )
    # Checked again, as text: what is stored must hold for any reader, not only for the door.
    if output is not None and not compile_schema(output).is_valid(orjson.loads(text)):
        raise ModelMalformed("The tool model's answer does not fit the output schema.")
    return Generated(text.decode(), "")


def _error(value: JsonValue) -> Generated | None:
    """The refusal, where the value is an error and nothing else; its code becomes a plain name."""
    if not isinstance(value, dict) or list(value) != ["error"]:
        return None
    error = value["error"]
    if not isinstance(error, dict) or sorted(error) != ["code", "message"]:
        return None
    code = _NO_NAME.sub("_", str(error["code"]).lower()).strip("_")
    return _refusal(code if code[:1].isalpha() else "tool_error", str(error["message"]))


def _refusal(code: str, message: str) -> Generated:
    return Generated(_json({"error": {"code": code, "message": message}}), code)


def _told(call: SimulatedCall) -> tuple[PastCall, ...]:
    """The past of the call as far as it fits into a prompt, oldest first."""
    count = latest([item.arguments + item.result for item in call.past], _PAST_CHARACTERS)
    return call.past[len(call.past) - count :]


def _key(call: SimulatedCall, question: str) -> str:
    digest = hashlib.sha256(call.arguments.encode()).hexdigest()
    return f"ledger/{call.task.task_id}/{call.version}/{call.tool.name}/{digest}/{question}"


def _json(value: JsonValue) -> str:
    return orjson.dumps(value).decode()
