"""Persona JSONL: one persona a line, as an object or a string.

An object tells the persona under one of several keys; a name and a role are taken along. Keys that
a persona has no place for are noted once, by the line on which each stands first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pydantic import JsonValue

from synthagent.interchange.documents import Unreadable, read_documents
from synthagent.interchange.findings import Note, Rejection
from synthagent.worlds.spec import Persona

MAX_DESCRIPTION = 4000
_DESCRIPTIONS = ("persona", "description", "text", "input persona", "bio", "summary")
_NAMES = ("name", "full_name", "first_name")
_ROLES = ("role", "occupation", "profession", "job", "job_title")
_VOICE = "plain"


@dataclass(frozen=True, slots=True)
class ImportedPersona:
    """A persona, its place ("line 3"), and notes on keys seen for the first time."""

    persona: Persona
    place: str
    notes: tuple[Note, ...] = ()


def read_personas(stream: BinaryIO) -> Iterator[ImportedPersona | Rejection]:
    """The personas of a JSONL file (or JSON array), one by one, or why a line is none."""
    unused: set[str] = set()
    for document in read_documents(stream):
        place = document.place
        if isinstance(document, Unreadable):
            yield Rejection("", place, document.reason)
            continue
        found = _read(document.value)
        if isinstance(found, str):
            yield Rejection("", place, found)
            continue
        persona, keys = found
        new = sorted(keys - unused)
        unused |= keys
        notes = (Note("", place, f"not kept, here and below: {', '.join(new)}"),) if new else ()
        yield ImportedPersona(persona, place, notes)


def _read(value: JsonValue) -> tuple[Persona, set[str]] | str:
    """The persona and the keys that have no place in it, or why it is none."""
    if isinstance(value, str):
        return _make(value, "", "", set())
    if not isinstance(value, dict):
        return "it is no object and no string"
    inner = value.get("persona")
    if isinstance(inner, dict):
        value = {**{key: part for key, part in value.items() if key != "persona"}, **inner}
    texts = {key: part for key, part in value.items() if isinstance(part, str) and part.strip()}
    told = next((key for key in _DESCRIPTIONS if key in texts), None)
    if told is None:
        return f"it has no text under any of the keys {', '.join(_DESCRIPTIONS)}"
    used = {told}
    name, role = _take(texts, _NAMES, used), _take(texts, _ROLES, used)
    return _make(texts[told], name, role, set(value) - used)


def _take(texts: Mapping[str, str], keys: Sequence[str], used: set[str]) -> str:
    key = next((key for key in keys if key in texts), None)
    if key is None:
        return ""
    used.add(key)
    return texts[key].strip()


def _make(text: str, name: str, role: str, unused: set[str]) -> tuple[Persona, set[str]] | str:
    description = text.strip()
    if not description:
        return "its text is empty"
    if len(description) > MAX_DESCRIPTION:
        return f"its text has {len(description)} characters; at most {MAX_DESCRIPTION} are allowed"
    try:
        f"{description}{name}{role}".encode()
    except UnicodeEncodeError as error:
        return f"it holds a character that Unicode has not: {error.reason}"
    return Persona(name=name, role=role, description=description, voice=_VOICE), unused
