"""The prompt of a released item: policy, tools and instruction, found in its texts.

A prompt is a list of messages, a text of one message after the other (with or without marks of a
chat template), or such a list as JSON in a text. Whatever it is, its texts are cut into the pieces
before and after the tools and the instruction, so that they can be put together byte for
byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import JsonValue

from synthagent.interchange.findings import Unparsed

T = TypeVar("T")
TEXT = "$text"  # marks, in the shape of a prompt, where a text is put back
ENCODED = "$json"  # marks a list that stands as JSON in a text

_POLICY = re.compile(r"<policy>(.*?)</policy>", re.DOTALL | re.IGNORECASE)
_RULE = re.compile(r"(?:^|\n)\s*(Tool\s[^\n]{1,80}?must NOT be used[^\n]*)")
_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL | re.IGNORECASE)
_USER_TURN = re.compile(
    r"(?:<\|im_start\|>user\n|<\|start_header_id\|>user<\|end_header_id\|>\s*|\n(?:User|Human):\s*)"
    r"(?P<turn>.*?)(?=<\|im_end\|>|<\|eot_id\|>|\n(?:Assistant):|\Z)",
    re.DOTALL,
)
_INSTRUCTION = re.compile(
    r"(?:\A|\n)[ \t]*(?:\*\*|#+ )?Task(?: Description)?(?:\*\*)?[ \t]*[:：](?:\*\*)?\s*"  # noqa: RUF001
    r"(?P<said>.*?)(?=\s*\n[ \t]*(?:#+|\*\*)[ \t]*Requirements?\b|\s*\Z)",
    re.DOTALL | re.IGNORECASE,
)
_REQUIREMENTS = re.compile(r"\s*(?:\n|\A)[ \t]*(?:#+|\*\*)[ \t]*Requirements?\b", re.IGNORECASE)


@dataclass(slots=True)
class Prompt:
    """The pieces of a prompt, and its shape with a mark where each text belongs."""

    shape: JsonValue
    system_before: str
    tools: str
    system_after: str
    user_before: str
    instruction: str
    user_after: str
    policy: str = ""
    notes: list[tuple[str, str]] = field(default_factory=list)


def read_prompt(value: JsonValue) -> Prompt:
    """The pieces of a prompt. Raises Unparsed, whose place is a path in it."""
    if isinstance(value, str):
        messages = _decoded(value)
        if messages is None:
            return _read_text(value)
        prompt = _read_messages(messages)
        prompt.shape = {ENCODED: prompt.shape, **_spelling(value, messages)}
        return prompt
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise Unparsed("prompt", f"it is no list of messages and no text: {type(value).__name__}")
    return _read_messages(value)


def write_prompt(shape: JsonValue, texts: dict[str, str]) -> JsonValue:
    """The prompt of a shape with its texts put back."""
    if isinstance(shape, dict):
        if TEXT in shape:
            return texts[str(shape[TEXT])]
        if ENCODED in shape:
            separators = (",", ":") if shape.get("compact") else None
            messages = write_prompt(shape[ENCODED], texts)
            return json.dumps(
                messages, ensure_ascii=bool(shape.get("ascii")), separators=separators
            )
        return {key: write_prompt(part, texts) for key, part in shape.items()}
    if isinstance(shape, list):
        return [write_prompt(part, texts) for part in shape]
    return shape


def _decoded(text: str) -> list[JsonValue] | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, list) else None


def _spelling(text: str, messages: list[JsonValue]) -> dict[str, JsonValue]:
    """How JSON was written, as far as it can be told."""
    for compact in (False, True):
        separators = (",", ":") if compact else None
        for ascii_only in (False, True):
            if json.dumps(messages, ensure_ascii=ascii_only, separators=separators) == text:
                return {"ascii": ascii_only, "compact": compact}
    return {"ascii": False, "compact": False}


def _read_messages(messages: list[JsonValue]) -> Prompt:
    texts: dict[int, str] = {}
    for number, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str):
            raise Unparsed(f"prompt[{number}].content", "it is no text")
        texts[number] = content
    system = _last([n for n, text in texts.items() if _block(text)])
    if system is None:
        raise Unparsed("prompt", "there is no <tools> block in it")
    users = [n for n in texts if _role(messages[n]) in ("user", "human") and n != system]
    if not users:
        users = [n for n in texts if n != system and _role(messages[n]) != "assistant"]
    notes = [
        (f"prompt[{n}]", f"a message of {_role(messages[n])!r}, kept and not used")
        for n in texts
        if n != system and n not in users[:1]
    ]
    prompt = _pieces(texts[system], f"prompt[{system}].content")
    if users:
        _set_instruction(prompt, texts[users[0]], f"prompt[{users[0]}].content")
    else:
        _split_after(prompt, f"prompt[{system}].content")
    shape: list[JsonValue] = []
    for number, message in enumerate(messages):
        assert isinstance(message, dict)  # noqa: S101 - it has a content
        whole = "system" if users else "prompt"
        mark = {system: whole, **dict.fromkeys(users[:1], "user")}.get(number)
        shape.append({**message, "content": {TEXT: mark}} if mark else message)
    prompt.shape = shape
    prompt.notes += notes
    return prompt


def _role(message: JsonValue) -> str:
    return str(message.get("role", "")).casefold() if isinstance(message, dict) else ""


def _read_text(text: str) -> Prompt:
    prompt = _pieces(text, "prompt")
    _split_after(prompt, "prompt")
    prompt.shape = {TEXT: "prompt"}
    return prompt


def _split_after(prompt: Prompt, place: str) -> None:
    """Takes the user's turn out of what follows the tools."""
    rest = prompt.system_after
    turn = _USER_TURN.search(rest)
    if turn is not None:
        start = turn.start("turn")
    else:
        said = _INSTRUCTION.search(rest)
        if said is None:
            raise Unparsed(place, "no message of the user can be told from the rest of the text")
        start = said.start()
    prompt.system_after = rest[:start]
    end = turn.end("turn") if turn else len(rest)
    _set_instruction(prompt, rest[start:end], place)
    prompt.user_after += rest[end:]


def _pieces(text: str, place: str) -> Prompt:
    """The pieces around the tools, and the policy."""
    block = _block(text)
    if block is None:
        raise Unparsed(place, "there is no <tools> block in it")
    start, end = block.span(1)
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    prompt = Prompt(None, text[:start], text[start:end], text[end:], "", "", "")
    outside = text[:start] + "\n" + text[end:]
    policies = [found.strip() for found in _POLICY.findall(outside) if found.strip()]
    if not policies:
        policies = [found.strip() for found in _RULE.findall(outside)]
        if policies:
            prompt.notes.append((place, "the policy has no <policy> tags; it is told by its form"))
    if len(policies) > 1:
        prompt.notes.append((place, f"{len(policies)} policies; all form the one restriction"))
    prompt.policy = "\n".join(policies)
    return prompt


def _block(text: str) -> re.Match[str] | None:
    """The last <tools> block that holds something; instructions mention empty ones."""
    return _last([found for found in _TOOLS.finditer(text) if "{" in found[1]])


def _last(found: Sequence[T]) -> T | None:
    return found[-1] if found else None


def _set_instruction(prompt: Prompt, text: str, place: str) -> None:
    said = _INSTRUCTION.search(text)
    if said is not None:
        start, end = said.span("said")
    else:
        requirements = _REQUIREMENTS.search(text)
        start, end = 0, requirements.start() if requirements else len(text)
        prompt.notes.append(
            (place, "no task description is marked; the whole text is taken for it")
        )
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if text[start:end].endswith("..") and not text[start:end].endswith("..."):
        end -= 1  # a full stop was put after one that was there
    prompt.user_before, prompt.instruction = text[:start], text[start:end]
    prompt.user_after = text[end:]
    if not prompt.instruction:
        raise Unparsed(place, "the task description is empty")
