"""The JSON documents of a file, one after the other: a JSON array, JSONL, or JSON texts in a row.

Nothing is held but the document being read, so a file may be larger than memory. A line of JSONL
that is no JSON is reported and the next one is read; in an array nothing can be read after a fault.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from pydantic import JsonValue

_CHUNK_BYTES = 1 << 16
MAX_DOCUMENT_CHARACTERS = 64 << 20
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Document:
    """One document and its place ("item 3", "line 7")."""

    place: str
    value: JsonValue


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A stretch of the file that is no document: its place and why."""

    place: str
    reason: str


class _NotJson(ValueError):
    """A text that is no JSON, with the reason."""


def read_documents(stream: BinaryIO) -> Iterator[Document | Unreadable]:
    """The documents in order. Reads as it goes; the stream stays the caller's to close."""
    head = stream.readline().removeprefix(codecs.BOM_UTF8)
    number = 1
    while head and not head.strip():
        head = stream.readline()
        number += 1
    start = head.strip()
    if start.startswith(b"["):
        yield from _read_sequence(chain([head], _chunks(stream)), array=True)
    elif start.startswith(b"{") and start.endswith((b"{", b"[", b",")):
        yield from _read_sequence(chain([head], _chunks(stream)), array=False)
    elif start:
        yield from _read_lines(chain([head], stream), number)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _read_lines(lines: Iterator[bytes], number: int) -> Iterator[Document | Unreadable]:
    for place, line in enumerate(lines, start=number):
        if not line.strip():
            continue
        try:
            value: JsonValue = json.loads(line.decode())
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            yield Unreadable(f"line {place}", _why(error))
        else:
            yield Document(f"line {place}", value)


def _read_sequence(chunks: Iterator[bytes], *, array: bool) -> Iterator[Document | Unreadable]:
    buffer = _Buffer(chunks)
    number = 0
    try:
        if array:
            buffer.skip(_SPACE)
            buffer.drop(1)
        while True:
            buffer.skip(_SPACE + ",")
            if buffer.empty:
                if array:
                    yield Unreadable("end of file", "the array is not closed; the file is cut")
                return
            if array and buffer.starts("]"):
                break
            yield Document(f"item {number}", buffer.value())
            number += 1
        buffer.drop(1)
        buffer.skip(_SPACE)
        if not buffer.empty:
            yield Unreadable("end of file", "there is text after the array, which was not read")
    except (_NotJson, UnicodeDecodeError) as error:
        yield Unreadable(f"item {number}", f"{_why(error)}; nothing after it was read")


class _Buffer:
    """Text read so far and not used yet, filled on demand."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._decoder = json.JSONDecoder()
        self._text = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing left, here and in the file."""
        return not self._text and not self._fill()

    def starts(self, text: str) -> bool:
        """Whether the text that is here starts so."""
        return self._text.startswith(text)

    def drop(self, count: int) -> None:
        """Takes characters away that are here."""
        self._text = self._text[count:]

    def skip(self, characters: str) -> None:
        """Takes these characters away, as far as they go."""
        self._text = self._text.lstrip(characters)
        while not self._text and self._fill():
            self._text = self._text.lstrip(characters)

    def value(self) -> JsonValue:
        """Takes the JSON value at the start. Raises _NotJson."""
        wanted = 0
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text)
            except (json.JSONDecodeError, RecursionError) as error:
                wanted = max(2 * len(self._text), _CHUNK_BYTES)
                if len(self._text) > MAX_DOCUMENT_CHARACTERS or not self._fill_to(wanted):
                    raise _NotJson(_why(error)) from error
            else:
                self._text = self._text[end:]
                found: JsonValue = value
                return found

    def _fill_to(self, length: int) -> bool:
        before = len(self._text)
        while len(self._text) < length and self._fill():
            pass
        return len(self._text) > before

    def _fill(self) -> bool:
        for chunk in self._chunks:
            text = self._decode(chunk)
            if text:
                self._text += text
                return True
        self._decode(b"", True)  # noqa: FBT003 - the codec's own signature; raises where it is cut
        return False


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return f"not JSON: {error.msg} ({line}column {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)
